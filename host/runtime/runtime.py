"""What both runtimes have in common: how they are launched, and the interface they share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from host.runtime.exits import ExitReason
from plugin_sdk.calls import Flight, HookCall
from plugin_sdk.description import Description
from plugin_sdk.events import Event
from plugin_sdk.worker.sandbox.confinement import OFF, UNAVAILABLE


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

    @property
    def weakened(self) -> tuple[str, ...]:
        """The parts of the sandbox that do not hold the worker, each with why; an inline plugin never had any."""
        if self.isolation != "process":
            return ()
        return tuple(
            f"{name}: {found}" for name, found in self.sandbox.items() if found == OFF or found.startswith(UNAVAILABLE)
        )


class Stored(Protocol):
    """An event of the log, as a runtime needs it; `body` is its JSON."""

    @property
    def sequence(self) -> int:
        """Its place in the log."""
        ...

    @property
    def event(self) -> Event:
        """The event."""
        ...

    @property
    def body(self) -> bytes:
        """The event as JSON."""
        ...


class Handed(Protocol):
    """One attempt at a delivery, in the hands of a runtime; `number` is the runtime's own name for it."""

    number: int

    @property
    def stored(self) -> Stored:
        """What is delivered."""
        ...

    @property
    def attempt(self) -> int:
        """The how manieth it is."""
        ...


class Hands(Protocol):
    """Who hands deliveries to a runtime, and hears what becomes of them, each once, unless it cancelled it."""

    def landed(self, landings: Sequence[tuple[Any, Exception | None, float]]) -> None:
        """These ended: what each raised, or None, and how many seconds it took by the runtime's own clock."""
        ...

    def recalled(self, handed: Sequence[Any]) -> None:
        """These were not begun, and will not be."""
        ...


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

    def fly(self, flight: Flight, handed: Sequence[Handed], hands: Hands) -> None:
        """Make deliveries of one subscription, begun in their order, so many at once as the plugin's concurrency says.

        Once one of them has failed, none is begun before `go_on` or `recall`. `hands` is told of each; it is the same
        for every flight of a runtime, and what it hears comes in turns of the loop of its own.

        Raises:
            NotRunningError: there was no runtime to take them.
            DeadLetter: they cannot be carried to it, at whatever attempt.
        """
        ...

    def cancel(self, handed: Handed) -> None:
        """Cancel a delivery; nothing more is heard of it, and its place is free."""
        ...

    def recall(self, handed: Sequence[Handed]) -> None:
        """Ask for those back that were not begun; the others go on."""
        ...

    def go_on(self) -> None:
        """Begin deliveries again, after one of them failed."""
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
