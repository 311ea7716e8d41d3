"""The `process` runtime: a plugin in a worker of its own, spoken to over a socket pair.

Whatever comes from a worker is taken for hostile: one that does not keep to the protocol is killed, one that
sends more than it may is read more slowly, and nothing that it sends is kept without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from host.runtime.data_folder import UncountableError
from host.runtime.errors import (
    ForkServerError,
    NotRunningError,
    ReleaseModifiedError,
    StartFailedError,
    WorkerDiedError,
)
from host.runtime.exits import ExitReason, decode
from host.runtime.fork_server import Child
from host.runtime.handed_over import HandedOver
from host.runtime.hook_outcomes import error_of, value_of
from host.runtime.requests import Requests
from host.runtime.runtime import Handed, Hands, Launch, RuntimeSnapshot
from host.runtime.sandbox import Prepared
from host.runtime.worker_lines import WorkerLines
from host.runtime.workshop import Workshop
from host.storage.errors import StorageError
from plugin_sdk.calls import Flight, HookCall, Request, ServiceCall, StopCall
from plugin_sdk.context import HostPort
from plugin_sdk.errors import HostError
from plugin_sdk.resilience import TokenBucket
from plugin_sdk.worker.main import DUMP_SIGNAL
from plugin_sdk.worker.wire import (
    Answer,
    Ask,
    Call,
    Cancel,
    Confined,
    Done,
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
    Recalled,
    Reply,
    Shutdown,
    UncarriableError,
    Validate,
    Wire,
)

EXIT_SECONDS: Final = 5.0
CLEARING: Final = 2**20
"""Bytes by which a folder that is full may grow all the same, while it is cleared: folders that are rewritten."""
DUMP_SECONDS: Final = 0.2
"""How long a worker that is about to be killed has for writing down where its threads stand."""
PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_log = structlog.get_logger(__name__)


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
        self._watch_confined: Callable[[], None] = lambda: None
        self._parts: dict[str, str] = {}
        self._started = self._cold_start = ""
        self._killed_for = ""
        self._number = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._given_up: dict[int, float] = {}
        self._deliveries = HandedOver(self._send, self._loop.time, self._broken)
        self._leaving: dict[int, asyncio.Future[None]] = {}
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
        self._arriving = TokenBucket(self._limits.arriving, self._limits.arriving / 4, self._loop.time)
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
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as unless_forked:
            unless_forked.callback(self._closing.close)
            try:
                mine, socket_of_worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                unless_forked.callback(mine.close)
                theirs.callback(socket_of_worker.close)
                errors, errors_of_worker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
                self._closing.callback(os.close, errors)
                theirs.callback(os.close, errors_of_worker)
                self._lines.listen_to(errors)
                mine.setblocking(False)  # noqa: FBT003 - the socket module's own signature
                prepared = await asyncio.to_thread(self._workshop.sandbox.prepare, launch)
                child = await self._workshop.fork_server.spawn(socket_of_worker, errors_of_worker, prepared)
            except (ForkServerError, UncountableError, StorageError, OSError) as error:
                self.exited.set_result(ExitReason("start failed", str(error)))
                raise StartFailedError(f"{launch.plugin} has no worker: {error}", retryable=True) from None
            except StartFailedError as error:
                self.exited.set_result(ExitReason("start failed", error.message))
                raise
            unless_forked.pop_all()
        self._child = child
        self._watch_confined = partial(self._watch_data, child.pid, mine.fileno(), prepared)
        if self._workshop.cpu_watch is not None:
            self._closing.callback(self._workshop.cpu_watch.add(launch.plugin, child.pid))
        self._started, self._cold_start = ("cold" if prepared.cold_start else "forked"), prepared.cold_start
        self._wire = Wire(FromWorker, self._received, self._lost, mine.fileno(), arrived=self._arrived)
        self._watch = self._loop.create_task(self._watch_exit(child.exited), name=f"exit of {launch.plugin}")
        await self._loop.create_unix_connection(lambda: self._wire, sock=mine)
        self._open = True
        self._heard_at = self._loop.time()
        try:
            self._wire.send(
                Load(
                    launch.plugin,
                    launch.entry_point,
                    [] if prepared.cold_start else prepared.path,
                    launch.config,
                    launch.secrets,
                    self._start_hook,
                    self._limits.heartbeat,
                    launch.concurrency,
                )
            )
            await self._ready
        except UncarriableError as error:
            self.kill("stopped: it could not be told what to load")
            await asyncio.wait((self.exited,), timeout=EXIT_SECONDS)
            raise StartFailedError(f"{launch.plugin} cannot be told its config: {error}", retryable=False) from None
        except BaseException:  # a cancellation too: no worker is left behind; raised again
            self.kill("stopped: it did not start")
            await asyncio.wait((self.exited,), timeout=EXIT_SECONDS)
            raise

    def _watch_data(self, pid: int, inbox: int, prepared: Prepared) -> None:
        """Have what the worker keeps on the disk watched; in a folder that is full already it may add nothing."""
        quota = self._workshop.sandbox.policy.data
        watch = self._workshop.data_watch
        if prepared.confinement.clear_only:
            self._parts["data"] = f"full: over {quota} bytes; it can be cleared, and takes more after a restart"
        if watch is not None:
            most = quota if prepared.used <= quota else prepared.used + CLEARING
            self._closing.callback(
                watch.add(
                    self._launch.data_folder,
                    most,
                    pid,
                    inbox,
                    cut=self.kill,
                    unseen=self._data_unseen,
                    # It cannot say that its loop turns while it stands still.
                    held=lambda held: self._hold("data") if held else self._release("data"),
                )
            )

    def _data_unseen(self, why: str) -> None:
        self._parts["data"] = f"unavailable: {why}; what it keeps in its data folder is counted"

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
        given_up = min((now, *self._given_up.values(), *self._deliveries.given_up.values()))
        pid = None if self.exited.done() or self._child is None else self._child.pid
        return RuntimeSnapshot(
            isolation="process",
            started=self._started,
            pid=pid,
            rss_bytes=_rss(pid),
            in_flight=len(self._calls) + len(self._leaving) + len(self._deliveries),
            silent_for=0.0 if self._holds else now - self._heard_at,
            overdue_for=now - given_up,
            sandbox=dict(self._parts),
            cold_start=self._cold_start,
        )

    async def look_after(self) -> None:
        """Take what it wrote to its standard error; see that it reads."""
        self._lines.hear_errors()
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
        answer: asyncio.Future[Any] = self._loop.create_future()
        number = self._send_call(call, answer)
        try:
            value = await answer
        except asyncio.CancelledError:
            if isinstance(call, ServiceCall | Request):
                await self._see_out(number)
            else:
                self._give_up(number)
            raise
        return value_of(call, value)

    async def _see_out(self, number: int) -> None:
        """Cancel a call that somebody waited for, and stay until its hook has ended, or the worker.

        However long it goes on, it is not overdue: whoever may call must not be able to have the worker killed. What
        bounds such calls is the place in the guard that each of them holds meanwhile.
        """
        if self._calls.pop(number, None) is not None:
            over = self._leaving[number] = self._loop.create_future()
            self._wire.send(Cancel(number))
            await over

    def fly(self, flight: Flight, handed: Sequence[Handed], hands: Hands) -> None:
        """Make deliveries; as `Runtime.fly`."""
        if not self._open:
            raise NotRunningError(f"{self._launch.plugin} has no worker now")
        self._deliveries.fly(self._number + 1, flight, handed, hands)
        self._number += len(handed)

    def cancel(self, handed: Handed) -> None:
        """Cancel a delivery; as `Runtime.cancel`."""
        self._deliveries.cancel(handed)

    def recall(self, handed: Sequence[Handed]) -> None:
        """Ask for deliveries back; as `Runtime.recall`."""
        self._deliveries.recall(handed)

    def go_on(self) -> None:
        """Begin deliveries again; as `Runtime.go_on`."""
        self._deliveries.go_on()

    def _send(self, message: Any) -> None:
        self._wire.send(message)

    def _send_call(self, call: HookCall, answer: asyncio.Future[Any]) -> int:
        """Send a call, and have its answer told; the call's number."""
        self._number += 1
        number = self._number
        try:
            self._wire.send(Call(number, call))
        except UncarriableError as error:
            raise HostError(
                f"the call cannot be handed to {self._launch.plugin}: {error}", "call_not_carried"
            ) from None
        self._calls[number] = answer
        return number

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
        try:
            self._wire.send(make(self._number))
        except UncarriableError as error:
            raise HostError(f"{self._launch.plugin} cannot be asked: {error}", "call_not_carried") from None
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._calls[self._number] = answer
        found: bytes | None = await answer
        return found

    # -- what comes from the worker

    def _received(self, message: FromWorker) -> None:
        self._heard_at = self._loop.time()
        if isinstance(message, Done):
            self._deliveries.done(message)
            return
        if isinstance(message, Reply):
            answer = self._answered(message.id)
            if answer is not None:
                answer.set_result(message.value)
            return
        if isinstance(message, Raised):
            if not self._deliveries.raised(message) and (answer := self._answered(message.id)) is not None:
                answer.set_exception(error_of(message))
            return
        if isinstance(message, Recalled):
            self._deliveries.recalled(message)
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

    def _arrived(self, count: int) -> None:
        """Few messages may be large ones: copying and decoding them takes the loop's time as well."""
        wait = self._arriving.reserve(math.inf, count)
        if wait:
            self._slow_down(wait)

    def _loaded(self, message: Ready | LoadFailed) -> None:
        if self._ready.done():
            self._broken("it says a second time whether it is loaded")
        elif isinstance(message, Ready):
            self._ready.set_result(None)
        else:
            self._ready.set_exception(_load_error(self._launch.plugin, message))

    def _answered(self, number: int) -> asyncio.Future[Any] | None:
        """Who waits for the answer to this call, if anyone still does."""
        answer = self._calls.pop(number, None)
        if answer is None and (over := self._leaving.pop(number, None)) is not None:
            if not over.done():
                over.set_result(None)
        elif answer is None and self._given_up.pop(number, None) is None:
            self._broken(f"an answer to a call {number} that nobody made")
        return None if answer is None or answer.done() else answer

    def _answer(self, answer: Answer) -> None:
        try:
            self._wire.send(answer)
        except UncarriableError as error:
            self._wire.send(Answer(answer.id, None, f"the answer cannot be sent: {error}", "answer_not_carried"))

    def _confined(self, message: Confined) -> None:
        if "session" in self._parts or self._child is None:
            self._broken("it says a second time how it is confined")
            return
        self._parts = {**message.parts, **self._parts}
        # Not before: while a worker changes its user, the host may not see what it holds.
        self._watch_confined()
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

    def _slow_down(self, seconds: float = 0.0) -> None:
        if not self._told_of_flood:
            self._told_of_flood = True
            _log.warning(
                "worker_slowed_down",
                plugin=self._launch.plugin,
                messages_per_second=self._limits.messages,
                bytes_per_second=self._limits.arriving,
            )
        if "flood" not in self._holds:
            self._hold("flood")
            # Half of the bucket is full again then, and the loop has had the time to itself.
            self._loop.call_later(max(0.125, seconds), self._release, "flood")

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
        reason = decode(status, self._killed_for, "")
        try:
            self._wire.close()
            self._lines.hear_errors()
            reason = decode(status, self._killed_for, self._lines.last_words)
            self._closing.close()
            self._requests.close()
        finally:
            # Whatever the cleaning up met: those who wait for the end are told that it has come.
            self._tell_of_exit(reason)

    def _tell_of_exit(self, reason: ExitReason) -> None:
        calls, self._calls = self._calls, {}
        leaving, self._leaving = self._leaving, {}
        self._given_up.clear()
        self._deliveries.died(WorkerDiedError(f"{self._launch.plugin}: {reason.evidence}"))
        for over in leaving.values():
            if not over.done():
                over.set_result(None)
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(WorkerDiedError(f"{self._launch.plugin}: {reason.evidence}"))
        if not self._ready.done():
            sentence = f"{self._launch.plugin}: {reason.evidence} before it was ready"
            self._ready.set_exception(StartFailedError(sentence, retryable=True))
            self._ready.exception()  # seen: `start` may have been cancelled
        self.exited.set_result(reason)


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


def _rss(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return None  # it has just ended, or there is no /proc here
