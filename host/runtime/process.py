"""The `process` runtime: a plugin in a worker of its own, spoken to over a socket pair."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from host.runtime.errors import (
    ForkServerError,
    HookFailedError,
    NotRunningError,
    StartFailedError,
    WorkerDiedError,
)
from host.runtime.exits import ExitReason, decode
from host.runtime.fork_server import ForkServer
from host.runtime.runtime import Launch, RuntimeSnapshot
from plugin_sdk.calls import Health, HealthCall, HookCall, Request, Response, StopCall
from plugin_sdk.context import HostPort
from plugin_sdk.description import Description
from plugin_sdk.errors import (
    DeadLetter,
    DescriptionError,
    Drop,
    HostError,
    InvalidEventError,
    PermissionDeniedError,
    Retry,
)
from plugin_sdk.worker.wire import (
    MAX_PAYLOAD,
    Answer,
    Ask,
    Call,
    Cancel,
    FromWorker,
    Heartbeat,
    Inspect,
    Load,
    LoadFailed,
    LogLine,
    LogLines,
    Raised,
    Ready,
    Reply,
    Shutdown,
    Validate,
    Wire,
)

MAX_ASKS: Final = 128
"""Requests of a worker that may be open; the SDK keeps to half of it, so one more is an attack."""
EXIT_SECONDS: Final = 5.0
EXAMINE_SECONDS: Final = 60.0
PAGE: Final = 4096
HEARTBEAT_SECONDS: Final = 0.5

_log = structlog.get_logger(__name__)


class WorkerRuntime:
    """One plugin in one worker.

    Args:
        launch: What to load.
        port: Serves what the plugin asks of the host; None refuses everything.
        fork_server: Forks the worker.
        log: Takes the plugin's log lines, and how many were dropped.
        start_hook: Whether the plugin is started, or only looked at.
        heartbeat: Seconds between the worker's signs of life.
    """

    def __init__(
        self,
        launch: Launch,
        port: HostPort | None,
        fork_server: ForkServer,
        log: Callable[[list[LogLine], int], None],
        *,
        start_hook: bool = True,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._launch = launch
        self._port = port
        self._fork_server = fork_server
        self._log = log
        self._start_hook = start_hook
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[ExitReason] = self._loop.create_future()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._wire: Wire[FromWorker]
        self._open = False
        self._pid: int | None = None
        self._killed_for = ""
        self._number = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._asks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._heard_at = self._loop.time()

    # -- life

    async def start(self) -> None:
        """Fork the worker, load the plugin and run its start hook; errors as in `Runtime.start`."""
        launch = self._launch
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await asyncio.to_thread(launch.data_folder.mkdir, parents=True, exist_ok=True, mode=0o700)
            mine.setblocking(False)  # noqa: FBT003 - the socket module's own signature
            self._pid, exited = await self._fork_server.spawn(theirs, launch.data_folder, launch.memory)
        except (ForkServerError, OSError) as error:
            mine.close()
            raise StartFailedError(f"{launch.plugin}: {error}", retryable=True) from None
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        self._wire = Wire(FromWorker, self._received, self._lost, mine.fileno())
        self._watch = self._loop.create_task(self._watch_exit(exited), name=f"exit of {launch.plugin}")
        await self._loop.create_unix_connection(lambda: self._wire, sock=mine)
        self._open = True
        self._heard_at = self._loop.time()
        self._wire.send(
            Load(
                launch.plugin,
                launch.entry_point,
                [str(launch.folder)],
                launch.config,
                launch.secrets,
                self._start_hook,
                self._heartbeat,
            )
        )
        try:
            await self._ready
        except BaseException:
            self.kill("stopped: it did not start")
            await asyncio.shield(self.exited)
            raise

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
            if done or self._pid is None:
                return
            self._fork_server.kill(self._pid, number)
        await asyncio.wait((self.exited,), timeout=EXIT_SECONDS)

    def kill(self, why: str) -> None:
        """Kill the worker's whole process group."""
        self._killed_for = self._killed_for or why
        if self._pid is not None:
            self._fork_server.kill(self._pid, signal.SIGKILL)

    def snapshot(self) -> RuntimeSnapshot:
        """How the worker is."""
        pid = None if self.exited.done() else self._pid
        return RuntimeSnapshot("process", pid, _rss(pid), len(self._calls), self._loop.time() - self._heard_at)

    # -- calls

    def call(self, call: HookCall) -> Coroutine[Any, Any, Any]:
        """Enter a hook; errors as in `Runtime.call`."""
        return self._ask_worker(call)

    async def _ask_worker(self, call: HookCall) -> Any:
        if not self._open:
            raise NotRunningError(f"{self._launch.plugin} has no worker now")
        self._number += 1
        number = self._number
        answer = self._calls[number] = self._loop.create_future()
        self._wire.send(Call(number, call))
        try:
            value = await answer
        except asyncio.CancelledError:
            if self._calls.pop(number, None) is not None:
                self._wire.send(Cancel(number))
            raise
        if value is None:
            return None
        return _decoded(call, value)

    async def examine(self, make: Callable[[int], Inspect | Validate]) -> bytes | None:
        """Ask the loaded plugin about itself."""
        if not self._open:
            raise NotRunningError(f"{self._launch.plugin} has no worker now")
        self._number += 1
        answer = self._calls[self._number] = self._loop.create_future()
        self._wire.send(make(self._number))
        found: bytes | None = await answer
        return found

    # -- what comes from the worker; it is taken for hostile

    def _received(self, message: FromWorker) -> None:
        self._heard_at = self._loop.time()
        if isinstance(message, Reply):
            answer = self._calls.pop(message.id, None)
            if answer is not None and not answer.done():
                answer.set_result(message.value)
        elif isinstance(message, Heartbeat):
            return
        elif isinstance(message, Raised):
            answer = self._calls.pop(message.id, None)
            if answer is not None and not answer.done():
                answer.set_exception(_error(message))
        elif isinstance(message, Ask):
            self._take_ask(message)
        elif isinstance(message, LogLines):
            self._log(message.lines, message.dropped)
        elif isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(None)
        elif not self._ready.done():
            self._ready.set_exception(_load_error(self._launch.plugin, message))

    def _take_ask(self, message: Ask) -> None:
        if len(self._asks) >= MAX_ASKS:
            self.kill(f"protocol error: over {MAX_ASKS} requests at once")
            return
        task = self._loop.create_task(self._serve(message), name=f"ask of {self._launch.plugin}")
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    async def _serve(self, message: Ask) -> None:
        operation = _OPERATIONS.get(message.operation)
        if operation is None or len(message.arguments) != len(operation):
            self.kill(f"protocol error: there is no request '{message.operation[:64]}' of that form")
            return
        for argument, kind in zip(message.arguments, operation, strict=True):
            if not isinstance(argument, kind) or (isinstance(argument, bytes) and len(argument) > MAX_PAYLOAD):
                self.kill(f"protocol error: '{message.operation}' with a wrong argument")
                return
        try:
            if self._port is None:
                raise PermissionDeniedError("nothing is granted while a plugin is only looked at")
            value = await getattr(self._port, message.operation)(*message.arguments)
            answer = Answer(message.id, value)
        except HostError as error:
            denied = isinstance(error, PermissionDeniedError)
            answer = Answer(message.id, None, str(error) or error.word, error.word, denied)
        except InvalidEventError as error:
            answer = Answer(message.id, None, str(error), error.code)
        except Exception:  # noqa: BLE001 - a failing request must not end the others; logged with its traceback
            _log.exception("request_failed", plugin=self._launch.plugin, operation=message.operation)
            answer = Answer(message.id, None, "the host failed at this; its log says how", "internal_error")
        self._wire.send(answer)

    def _lost(self, error: Exception | None) -> None:
        self._open = False
        if error is not None and not self._killed_for:
            self.kill(f"protocol error: {error}")
        elif self._pid is not None and not self.exited.done():
            # The socket went first: the worker is ending, or has given up its socket and must.
            self._loop.call_later(EXIT_SECONDS, self._end_if_left)

    def _end_if_left(self) -> None:
        if not self.exited.done():
            self.kill("protocol error: the worker closed its socket and went on")

    async def _watch_exit(self, exited: asyncio.Future[int | None]) -> None:
        status = await exited
        reason = decode(status, self._killed_for)
        self._open = False
        self._wire.close()
        for task in tuple(self._asks):
            task.cancel()
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(WorkerDiedError(f"{self._launch.plugin}: {reason.evidence}"))
        if not self._ready.done():
            failed = StartFailedError(f"{self._launch.plugin}: {reason.evidence} before it was ready", retryable=True)
            self._ready.set_exception(failed)
            self._ready.exception()  # seen: `start` may have been cancelled
        self.exited.set_result(reason)


class WorkerExaminer:
    """Looks at plugins in throw-away workers, without grants, config or secrets."""

    def __init__(self, fork_server: ForkServer, log: Callable[[str], Callable[[list[LogLine], int], None]]) -> None:
        self._fork_server = fork_server
        self._log = log

    async def describe(self, launch: Launch) -> Description:
        """What the plugin's code does; errors as in `Examiner.describe`."""
        found = await self._examine(launch, Inspect)
        try:
            return msgspec.json.decode(found or b"null", type=Description)
        except (msgspec.MsgspecError, DescriptionError) as error:
            raise StartFailedError(f"{launch.plugin} describes itself wrongly: {error}", retryable=False) from None

    async def validate_config(self, launch: Launch, config: dict[str, Any]) -> None:
        """Check a config against the plugin's own model; errors as in `Examiner.validate_config`."""
        await self._examine(launch, lambda number: Validate(number, config))

    async def _examine(self, launch: Launch, make: Callable[[int], Inspect | Validate]) -> bytes | None:
        runtime = WorkerRuntime(launch, None, self._fork_server, self._log(launch.plugin), start_hook=False)
        try:
            async with asyncio.timeout(EXAMINE_SECONDS):
                await runtime.start()
                return await runtime.examine(make)
        except TimeoutError:
            raise StartFailedError(
                f"{launch.plugin} did not describe itself within {EXAMINE_SECONDS:g} s", retryable=False
            ) from None
        finally:
            runtime.kill("stopped: it was only looked at")
            await asyncio.wait((runtime.exited,), timeout=EXIT_SECONDS)


_OPERATIONS: Final[dict[str, tuple[type, ...]]] = {
    "emit": (bytes,),
    "kv_get": (str,),
    "kv_set": (str, bytes),
    "kv_delete": (str,),
    "kv_list": (str, str, int),
    "extend": (str,),
}
"""What a worker may ask for: the methods of `HostPort`, with the types of their arguments."""


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
    sentence = (
        message.message if message.name in {"DescriptionError", "HostError"} else f"{message.name}: {message.message}"
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
