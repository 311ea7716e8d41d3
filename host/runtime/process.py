"""The `process` runtime: a plugin in a worker of its own, spoken to over a socket pair.

Whatever comes from a worker is taken for hostile: one that does not keep to the protocol is killed, one that
sends more than it may is read more slowly, and nothing that it sends is kept without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from host.runtime.cpu_watch import CpuWatch
from host.runtime.errors import (
    ForkServerError,
    HookFailedError,
    NotRunningError,
    ReleaseModifiedError,
    StartFailedError,
    WorkerDiedError,
)
from host.runtime.exits import ExitReason, decode
from host.runtime.fork_server import Child
from host.runtime.requests import Requests
from host.runtime.runtime import Launch, RuntimeSnapshot
from host.runtime.sandbox import Prepared
from host.runtime.worker_lines import WorkerLines
from host.runtime.workshop import Workshop
from plugin_sdk.calls import Health, HealthCall, HookCall, Request, Response, StopCall
from plugin_sdk.context import HostPort
from plugin_sdk.errors import (
    DeadLetter,
    Drop,
    HostError,
    Retry,
)
from plugin_sdk.resilience import TokenBucket
from plugin_sdk.worker.main import DUMP_SIGNAL
from plugin_sdk.worker.wire import (
    Answer,
    Ask,
    Call,
    Cancel,
    Confined,
    FromWorker,
    Heartbeat,
    Inspect,
    Load,
    LoadFailed,
    LogLine,
    LogLines,
    Modified,
    Raised,
    Ready,
    Reply,
    Shutdown,
    Validate,
    Wire,
)

EXIT_SECONDS: Final = 5.0
DUMP_SECONDS: Final = 0.2
"""How long a worker that is about to be killed has for writing down where its threads stand."""
PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_log = structlog.get_logger(__name__)


class _Told:
    """Who hears of the end of a call without waiting for it, in the place of a future."""

    __slots__ = ("_ended",)

    def __init__(self, ended: Callable[[BaseException | None], None]) -> None:
        self._ended = ended

    def set_result(self, _value: object) -> None:
        """The hook returned."""
        self._ended(None)

    def set_exception(self, error: BaseException) -> None:
        """It raised, or the worker ended."""
        self._ended(error)

    @staticmethod
    def done() -> bool:
        """Whether nobody waits any more: it was told once, and is out of the table then."""
        return False


class WorkerRuntime:
    """One plugin in one worker.

    Args:
        launch: What to load.
        port: Serves what the plugin asks of the host; None refuses everything.
        workshop: What the worker is made with.
        log: Takes the plugin's log lines, and how many were dropped.
        start_hook: Whether the plugin is started, or only looked at.
    """

    def __init__(
        self,
        launch: Launch,
        port: HostPort | None,
        workshop: Workshop,
        log: Callable[[list[LogLine], int], None],
        *,
        start_hook: bool = True,
    ) -> None:
        self._launch = launch
        self._workshop = workshop
        self._limits = workshop.limits
        self._start_hook = start_hook
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[ExitReason] = self._loop.create_future()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._wire: Wire[FromWorker]
        self._open = False
        self._child: Child | None = None
        self._cpu: CpuWatch | None = None
        self._parts: dict[str, str] = {}
        self._started = self._cold_start = ""
        self._killed_for = ""
        self._number = 0
        self._calls: dict[int, asyncio.Future[Any] | _Told] = {}
        self._given_up: dict[int, float] = {}
        self._requests = Requests(
            launch.plugin,
            port,
            workshop.limits.rates,
            now=self._loop.time,
            answer=self._answer,
            broken=self._broken,
            full=lambda full: self._hold("requests") if full else self._release("requests"),
            unread=lambda: self._open and self._wire.paused_at is not None,
        )
        self._messages = TokenBucket(self._limits.messages, self._limits.messages / 4, self._loop.time)
        self._lines = WorkerLines(log, self._limits.log_lines, self._broken)
        self._holds: set[str] = set()
        self._told_of_flood = self._told_of_modified = False
        self._watch: asyncio.Task[None] | None = None
        self._heard_at = self._loop.time()
        self._closing = contextlib.ExitStack()

    # -- life

    async def start(self) -> None:
        """Fork the worker, load the plugin and run its start hook; errors as in `Runtime.start`."""
        launch = self._launch
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        errors, their_errors = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing.callback(os.close, errors)
        self._lines.listen_to(errors)
        try:
            mine.setblocking(False)  # noqa: FBT003 - the socket module's own signature
            prepared = await asyncio.to_thread(self._workshop.sandbox.prepare, launch)
            child = await self._workshop.fork_server.spawn(theirs, their_errors, prepared)
        except (ForkServerError, OSError) as error:
            mine.close()
            self._closing.close()
            self.exited.set_result(ExitReason("start failed", str(error)))
            raise StartFailedError(f"{launch.plugin} has no worker: {error}", retryable=True) from None
        except BaseException:  # a cancellation too: nothing stays open; raised again
            mine.close()
            self._closing.close()
            raise
        finally:
            theirs.close()
            os.close(their_errors)
        self._child = child
        self._cpu = CpuWatch(launch.plugin, child.pid)
        self._started, self._cold_start = ("cold" if prepared.cold_start else "forked"), prepared.cold_start
        self._wire = Wire(FromWorker, self._received, self._lost, mine.fileno())
        self._watch = self._loop.create_task(self._watch_exit(child.exited), name=f"exit of {launch.plugin}")
        await self._loop.create_unix_connection(lambda: self._wire, sock=mine)
        self._open = True
        self._heard_at = self._loop.time()
        self._watch_data(prepared)
        self._wire.send(
            Load(
                launch.plugin,
                launch.entry_point,
                [] if prepared.cold_start else prepared.path,
                launch.config,
                launch.secrets,
                self._start_hook,
                self._limits.heartbeat,
            )
        )
        try:
            await self._ready
        except BaseException:  # a cancellation too: no worker is left behind; raised again
            self.kill("stopped: it did not start")
            await asyncio.wait((self.exited,), timeout=EXIT_SECONDS)
            raise

    def _watch_data(self, prepared: Prepared) -> None:
        """Have the data folder watched; one that is full already can only be cleared, and needs no watching."""
        quota = self._workshop.sandbox.policy.data
        watch = self._workshop.data_watch
        if prepared.confinement.clear_only:
            self._parts["data"] = f"full: over {quota} bytes; it can be cleared, and takes more after a restart"
        elif watch is not None:
            why = f"disk quota: over {quota} bytes in its data folder"
            self._closing.callback(watch.add(self._launch.data_folder, quota, lambda _found: self.kill(why)))

    async def stop(self, stop_hook: float, term: float) -> None:
        """Run the stop hook, then end the worker: asked to first, with TERM and KILL if it must be."""
        if self._open and self._ready.done() and not self._ready.exception():
            try:
                async with asyncio.timeout(stop_hook):
                    await self.call(StopCall())
            except TimeoutError:
                _log.warning("stop_hook_too_slow", plugin=self._launch.plugin, seconds=stop_hook)
            except (NotRunningError, WorkerDiedError) as error:
                _log.warning("worker_gone_while_stopping", plugin=self._launch.plugin, reason=error.message)
            except Exception as error:  # noqa: BLE001 - a failing stop hook does not keep the plugin
                _log.warning("stop_hook_failed", plugin=self._launch.plugin, reason=str(error))
        self._killed_for = self._killed_for or "stopped"
        if self._open:
            self._wire.send(Shutdown())
        for number in (signal.SIGTERM, signal.SIGKILL):
            done, _ = await asyncio.wait((self.exited,), timeout=min(1.0, term) if number is signal.SIGTERM else term)
            if done or self._child is None:
                return
            self._workshop.fork_server.kill(self._child.pid, number)
        await asyncio.wait((self.exited,), timeout=EXIT_SECONDS)

    def kill(self, why: str, *, ask_where: bool = False) -> None:
        """Kill the worker's whole process group."""
        child = self._child
        if child is None or self.exited.done():
            return
        self._killed_for = self._killed_for or why
        kill = self._workshop.fork_server.kill
        if ask_where:
            kill(child.pid, DUMP_SIGNAL)
            self._loop.call_later(DUMP_SECONDS, self.kill, why)
        else:
            kill(child.pid, signal.SIGKILL)

    def snapshot(self) -> RuntimeSnapshot:
        """How the worker is."""
        now = self._loop.time()
        pid = None if self.exited.done() or self._child is None else self._child.pid
        return RuntimeSnapshot(
            isolation="process",
            started=self._started,
            pid=pid,
            rss_bytes=_rss(pid),
            in_flight=len(self._calls),
            silent_for=0.0 if self._holds else now - self._heard_at,
            overdue_for=max((now - since for since in self._given_up.values()), default=0.0),
            sandbox=dict(self._parts),
            cold_start=self._cold_start,
        )

    async def look_after(self) -> None:
        """Take what it wrote to its standard error; see that it reads, and that it leaves the others a processor."""
        self._lines.hear_errors()
        if self._cpu is not None:
            self._cpu.look(self._loop.time())
        paused_at = self._wire.paused_at
        if paused_at is not None and self._loop.time() - paused_at > self._limits.unread:
            self._broken(f"it has left unread for {self._limits.unread:g} s what was sent to it")

    # -- calls

    def call(self, call: HookCall) -> Coroutine[Any, Any, Any]:
        """Enter a hook; errors as in `Runtime.call`."""
        return self._ask_worker(call)

    async def _ask_worker(self, call: HookCall) -> Any:
        if not self._open:
            raise NotRunningError(f"{self._launch.plugin} has no worker now")
        self._number += 1
        number = self._number
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._calls[number] = answer
        self._wire.send(Call(number, call))
        try:
            value = await answer
        except asyncio.CancelledError:
            self._give_up(number)
            raise
        if value is None:
            return None
        return _decoded(call, value)

    def begin(self, call: HookCall, ended: Callable[[BaseException | None], None]) -> Callable[[], None] | None:
        """Enter a hook whose answer nobody needs; as `Runtime.begin`."""
        if not self._open:
            raise NotRunningError(f"{self._launch.plugin} has no worker now")
        self._number += 1
        number = self._number
        self._calls[number] = _Told(ended)
        self._wire.send(Call(number, call))
        return partial(self._give_up, number)

    def _give_up(self, number: int) -> None:
        """Cancel a call; its answer still comes, unless the hook does not heed the cancellation."""
        if self._calls.pop(number, None) is not None:
            self._given_up[number] = self._loop.time()
            self._wire.send(Cancel(number))

    async def examine(self, make: Callable[[int], Inspect | Validate]) -> bytes | None:
        """Ask the loaded plugin about itself."""
        if not self._open:
            raise NotRunningError(f"{self._launch.plugin} has no worker now")
        self._number += 1
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._calls[self._number] = answer
        self._wire.send(make(self._number))
        found: bytes | None = await answer
        return found

    # -- what comes from the worker

    def _received(self, message: FromWorker) -> None:
        self._heard_at = self._loop.time()
        if isinstance(message, Reply):
            answer = self._answered(message.id)
            if answer is not None:
                answer.set_result(message.value)
            return
        if isinstance(message, Raised):
            answer = self._answered(message.id)
            if answer is not None:
                answer.set_exception(_error(message))
            return
        if not self._messages.take():
            self._slow_down()
        if isinstance(message, Heartbeat):
            return
        if isinstance(message, Ask):
            self._requests.take(message)
        elif isinstance(message, LogLines):
            self._lines.keep(message.lines, message.dropped)
        elif isinstance(message, Confined):
            self._confined(message)
        elif isinstance(message, Modified):
            self._tell_of_modified()
        else:
            self._loaded(message)

    def _loaded(self, message: Ready | LoadFailed) -> None:
        if self._ready.done():
            self._broken("it says a second time whether it is loaded")
        elif isinstance(message, Ready):
            self._ready.set_result(None)
        else:
            self._ready.set_exception(_load_error(self._launch.plugin, message))

    def _answered(self, number: int) -> asyncio.Future[Any] | _Told | None:
        """Who waits for the answer to this call, if anyone still does."""
        answer = self._calls.pop(number, None)
        if answer is None and self._given_up.pop(number, None) is None:
            self._broken(f"an answer to a call {number} that nobody made")
        return None if answer is None or answer.done() else answer

    def _answer(self, answer: Answer) -> None:
        self._wire.send(answer)

    def _confined(self, message: Confined) -> None:
        if "session" in self._parts or self._child is None:
            self._broken("it says a second time how it is confined")
            return
        self._parts = {**message.parts, **self._parts}
        door = self._workshop.fork_server.door(self._child)
        if door is None:
            return
        if self._workshop.egress is None:
            door.close()
            return
        served = self._workshop.egress.open(self._launch.plugin, self._launch.network, door)
        self._closing.callback(served.close)

    def _tell_of_modified(self) -> None:
        """Have the release verified again, which costs something: once, whatever a worker says."""
        if not self._told_of_modified:
            self._told_of_modified = True
            self._workshop.modified(self._launch.plugin)

    def _slow_down(self) -> None:
        if not self._told_of_flood:
            self._told_of_flood = True
            _log.warning("worker_slowed_down", plugin=self._launch.plugin, messages_per_second=self._limits.messages)
        if "flood" not in self._holds:
            self._hold("flood")
            # Half of the bucket is full again then, and the loop has had the time to itself.
            self._loop.call_later(0.125, self._release, "flood")

    def _hold(self, why: str) -> None:
        self._holds.add(why)
        self._wire.hold()

    def _release(self, why: str) -> None:
        self._holds.discard(why)
        if not self._holds:
            self._heard_at = self._loop.time()
            self._wire.go_on()

    def _broken(self, why: str) -> None:
        """The worker does not keep to the protocol."""
        self._wire.fail(why)

    def _lost(self, error: Exception | None) -> None:
        self._open = False
        if error is not None and not self._killed_for:
            self.kill(f"protocol error: {error}")
        elif self._child is not None and not self.exited.done():
            # The socket went first: the worker is ending, or has given up its socket and must.
            self._loop.call_later(EXIT_SECONDS, self._end_if_left)

    def _end_if_left(self) -> None:
        if not self.exited.done():
            self.kill("protocol error: the worker closed its socket and went on")

    async def _watch_exit(self, exited: asyncio.Future[int | None]) -> None:
        status = await exited
        self._open = False
        self._wire.close()
        self._lines.hear_errors()
        reason = decode(status, self._killed_for, self._lines.last_words)
        self._closing.close()
        self._requests.close()
        calls, self._calls = self._calls, {}
        self._given_up.clear()
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(WorkerDiedError(f"{self._launch.plugin}: {reason.evidence}"))
        if not self._ready.done():
            failed = StartFailedError(f"{self._launch.plugin}: {reason.evidence} before it was ready", retryable=True)
            self._ready.set_exception(failed)
            self._ready.exception()  # seen: `start` may have been cancelled
        self.exited.set_result(reason)


def _error(message: Raised) -> Exception:
    match message.kind:
        case "retry":
            return Retry(message.after, message.reason)
        case "drop":
            return Drop(message.reason)
        case "dead-letter":
            return DeadLetter(message.reason)
        case "host":
            return HostError(message.reason, message.name)
        case _:
            return HookFailedError(message.name, message.reason, message.traceback)


def _load_error(plugin: str, message: LoadFailed) -> StartFailedError:
    if message.name == ReleaseModifiedError.__name__:
        return ReleaseModifiedError(f"{plugin} could not be loaded: {message.message}", retryable=False)
    sentence = (
        message.message
        if message.name in {"DescriptionError", "HostError", "SandboxError"}
        else f"{message.name}: {message.message}"
    )
    return StartFailedError(
        f"{plugin} could not be loaded: {sentence}", retryable=message.retryable, traceback=message.traceback
    )


def _decoded(call: HookCall, value: bytes) -> Any:
    """A hook's answer in the shape that the hook promises."""
    shape: Any = Health if isinstance(call, HealthCall) else Response if isinstance(call, Request) else Any
    try:
        return msgspec.json.decode(value, type=shape)
    except msgspec.MsgspecError as error:
        raise HookFailedError("TypeError", f"the hook's answer has the wrong shape: {error}") from None


def _rss(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return None  # it has just ended, or there is no /proc here
