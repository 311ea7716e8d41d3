"""What both runtimes have in common: how they are launched, and the interface they share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from host.runtime.exits import ExitReason
from plugin_sdk.calls import HookCall
from plugin_sdk.description import Description


@dataclass(frozen=True, slots=True)
class Launch:
    """What a runtime needs to start a plugin. `memory` is in bytes, `timeout` in seconds, `network` what is granted.

    `dependencies` are the folders of its own dependencies. `cold_start` says which of them take the place of
    something of the SDK's, so that its worker has to start in an interpreter of its own; empty where none does.
    `digests` are what all files in these folders must hash to (`plugin_sdk.worker.digests`); where they are empty, as
    for source that an author works on, files are imported as they are.
    """

    plugin: str
    folder: Path
    entry_point: str
    config: dict[str, Any]
    secrets: dict[str, str]
    isolation: str
    memory: int
    concurrency: int
    timeout: float
    data_folder: Path
    network: tuple[str, ...] = ()
    dependencies: tuple[Path, ...] = ()
    cold_start: str = ""
    digests: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class RuntimeSnapshot:
    """A runtime at one instant; an inline one has no process of its own.

    Attributes:
        isolation: `process` or `inline`.
        started: How: `forked` from the fork server, `cold`, or `inline`.
        cold_start: Why it was started cold, or nothing.
        sandbox: What became of each part of the sandbox: `enforced`, `off`, or `unavailable: why`.
        silent_for: Seconds since anything was heard of its loop.
        overdue_for: Seconds that the oldest hook whose time was up has gone on since; not those that others called.
    """

    isolation: str
    started: str
    pid: int | None
    rss_bytes: int | None
    in_flight: int
    silent_for: float
    overdue_for: float
    sandbox: Mapping[str, str]
    cold_start: str = ""


class Runtime(Protocol):
    """One plugin, loaded and started, until it ends or is stopped. A runtime starts once."""

    exited: asyncio.Future[ExitReason]
    """Done when the runtime is gone, with why; also after `stop`."""

    async def start(self) -> None:
        """Load the plugin and run its start hook.

        Raises:
            StartFailedError: it could not be loaded or started; the runtime is gone.
            ReleaseModifiedError: because a file is not what was verified any more.
        """
        ...

    def call(self, call: HookCall) -> Awaitable[Any]:
        """Enter a hook; cancelling the await cancels the hook.

        One of a `ServiceCall` or a `Request` ends when the hook has, so that whoever awaits it knows how many go on.

        Raises:
            Retry, Drop, DeadLetter, HostError: what the hook raised of the SDK's own.
            HookFailedError: what else it raised.
            WorkerDiedError: the runtime ended first.
            NotRunningError: there was no runtime to take the call.
        """
        ...

    def begin(self, call: HookCall, ended: Callable[[BaseException | None], None]) -> Callable[[], None] | None:
        """Enter a hook whose answer nobody needs, without a task that waits for it.

        `ended` is told what was raised, or None, in the very turn of the loop in which it is known. What is answered
        cancels the hook; `ended` hears nothing then. None where this runtime needs a task: then nothing was begun.

        Raises:
            NotRunningError: there was no runtime to take the call.
        """
        ...

    async def stop(self, stop_hook: float, term: float) -> None:
        """Run the stop hook within `stop_hook` seconds, then end the runtime, by force after `term` more."""
        ...

    def kill(self, why: str, *, ask_where: bool = False) -> None:
        """End the runtime now; `why` is the cause that `exited` will name.

        `ask_where`: give it a moment to write down where its threads stand.
        """
        ...

    async def look_after(self) -> None:
        """What has to be done for a running runtime from time to time; called at every look of the supervisor."""
        ...

    def snapshot(self) -> RuntimeSnapshot:
        """How it is."""
        ...


class Examiner(Protocol):
    """Runs a plugin's code without grants, only to ask it about itself."""

    async def describe(self, launch: Launch) -> Description:
        """What the plugin's code does.

        Raises:
            StartFailedError: it could not be loaded; HostError or HookFailedError: `describe` failed.
        """
        ...

    async def validate_config(self, launch: Launch, config: dict[str, Any]) -> None:
        """Check a config against the plugin's own model.

        Raises:
            HostError: `config_invalid`, with what is wrong.
        """
        ...
