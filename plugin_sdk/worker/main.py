"""A worker's main loop: one plugin, loaded and called as the host says, on one asyncio loop.

Whatever a hook raises is that call's failure and ends nothing else. The worker ends when the host says so,
or when the socket to the host is gone.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import io
import logging
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

import msgspec

from plugin_sdk.calls import EventCall, FiringCall
from plugin_sdk.context import Session
from plugin_sdk.errors import (
    DeadLetter,
    DescriptionError,
    Drop,
    HostError,
    InvalidEventError,
    PermissionDeniedError,
    Retry,
    SandboxError,
)
from plugin_sdk.loading import LoadedPlugin
from plugin_sdk.resumed import Resumed
from plugin_sdk.worker.file_errors import is_shortage
from plugin_sdk.worker.sandbox.confinement import CONNECTION, missing
from plugin_sdk.worker.verified_imports import ReleaseModifiedError, VerifiedImports
from plugin_sdk.worker.wire import (
    MAX_PAYLOAD,
    Answer,
    Ask,
    Call,
    Cancel,
    Confined,
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
    ToWorker,
    Validate,
    Wire,
)

MAX_ASKS: Final = 64
"""Requests to the host that may be in flight; further ones wait their turn in the plugin."""
LOG_LINES_PER_SECOND: Final = 500
MAX_LINE: Final = 8192
MAX_TRACEBACK: Final = 16384

READ_BYTES: Final = 16 * 1024
"""What a worker reads at once: little, because every worker has it."""
DUMP_SIGNAL: Final = signal.SIGUSR1
"""Makes a worker write the stacks of all its threads to its standard error."""

_delivery: contextvars.ContextVar[str] = contextvars.ContextVar("busbar_delivery", default="")


class RemotePort:
    """The host as it is reached from a worker: every request is a message and its answer."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._turn = asyncio.Semaphore(MAX_ASKS)

    async def _ask(self, operation: str, *arguments: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, bytes) and len(argument) > MAX_PAYLOAD:
                raise HostError(f"{operation}: {len(argument)} bytes are more than {MAX_PAYLOAD}", "too_large")
        async with self._turn:
            return await self._worker.ask(operation, list(arguments))

    async def emit(self, event: bytes) -> int:
        """Append an event to the log."""
        return int(await self._ask("emit", event))

    async def kv_get(self, key: str) -> bytes | None:
        """The value under a key."""
        found: bytes | None = await self._ask("kv_get", key)
        return found

    async def kv_set(self, key: str, value: bytes) -> None:
        """Keep a value."""
        await self._ask("kv_set", key, value)

    async def kv_delete(self, key: str) -> bool:
        """Forget a key."""
        return bool(await self._ask("kv_delete", key))

    async def kv_list(self, prefix: str, after: str, limit: int) -> list[str]:
        """Keys with a prefix."""
        return list(await self._ask("kv_list", prefix, after, limit))

    async def call(
        self,
        service: str,
        arguments: bytes,
        timeout: float,  # noqa: ASYNC109 - the host keeps it
        chain: list[str],
        traceparent: str,
    ) -> bytes:
        """Call a service of another plugin."""
        return bytes(await self._ask("call", service, arguments, timeout, chain, traceparent))

    async def extend(self, delivery_id: str) -> None:
        """Start a delivery's time limit anew."""
        await self._ask("extend", delivery_id)


class Worker:
    """One plugin behind one socket.

    Args:
        unconfined: Parts of the sandbox that are required and unavailable, with why; a plugin is not loaded then.
        imports: What the plugin's files are held to; None where they are imported as they are.
    """

    def __init__(self, unconfined: list[str], imports: VerifiedImports | None = None) -> None:
        self._unconfined = unconfined
        self._imports = imports
        self._loop = asyncio.get_running_loop()
        if imports is not None:
            imports.told = self._file_modified
        self.wire: Wire[ToWorker] = Wire(ToWorker, self._received, self._host_gone, read_bytes=READ_BYTES)
        self._plugin: LoadedPlugin | None = None
        self._session: Session | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asks: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self._beat = 0.5
        self._lines: _LogHandler | None = None

    async def ask(self, operation: str, arguments: list[Any]) -> Any:
        """Send a request to the host and wait for its answer."""
        self._asked += 1
        number = self._asked
        answer = self._asks[number] = self._loop.create_future()
        self.wire.send(Ask(number, operation, msgspec.Raw(msgspec.msgpack.encode(arguments))))
        try:
            return await answer
        finally:
            self._asks.pop(number, None)

    # -- messages

    def _received(self, message: ToWorker) -> None:
        if isinstance(message, Call):
            self._begin(message)
        elif isinstance(message, Answer):
            self._answered(message)
        elif isinstance(message, Cancel):
            task = self._tasks.get(message.id)
            if task is not None:
                task.cancel()
        elif isinstance(message, Load):
            self._tasks[0] = self._loop.create_task(self._load(message))
        elif isinstance(message, Inspect | Validate):
            self._tasks[message.id] = self._loop.create_task(self._examine(message))
        elif isinstance(message, Shutdown):
            self.wire.flush()
            _end(0)

    def _answered(self, message: Answer) -> None:
        answer = self._asks.get(message.id)
        if answer is None or answer.done():
            return
        if not message.error:
            answer.set_result(message.value)
        elif message.denied:
            answer.set_exception(PermissionDeniedError(message.error, message.word))
        else:
            answer.set_exception(HostError(message.error, message.word))

    def _host_gone(self, _error: Exception | None) -> None:
        _end(0)

    # -- what they ask for

    async def _load(self, message: Load) -> None:
        sys.path[:0] = message.path
        handler = self._lines = _LogHandler(self.wire)
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        sys.stdout = _Printed(handler, logging.INFO)
        sys.stderr = _Printed(handler, logging.WARNING)
        self._beat = message.heartbeat
        self._heartbeat()
        retryable = False
        try:
            if self._unconfined:
                raise SandboxError("the sandbox is required, and not whole here: " + "; ".join(self._unconfined))
            plugin = LoadedPlugin.load(message.plugin, message.entry_point)
            self._check_files()
            session = Session(plugin=message.plugin, host=RemotePort(self), secrets=message.secrets)
            self._plugin, self._session = plugin, session
            if message.start:
                session.config = plugin.parse_config(message.config)
                retryable = True
                await plugin.start(session)
                self._check_files()
        except BaseException as error:  # noqa: BLE001 - whatever a plugin's import raises is its failure
            self.wire.send(self._load_failed(error, retryable=retryable))
            return
        finally:
            self._tasks.pop(0, None)
        self.wire.send(Ready())

    def _load_failed(self, error: BaseException, *, retryable: bool) -> LoadFailed:
        if self._imports is not None and self._imports.modified:
            # Whatever the plugin made of it: this is why.
            return LoadFailed(ReleaseModifiedError.__name__, self._imports.modified, "", retryable=False)
        known = isinstance(error, DescriptionError | SandboxError) or (
            isinstance(error, HostError) and error.word == "config_invalid"
        )
        return LoadFailed(
            type(error).__name__,
            str(error)[:MAX_LINE],
            "" if known else _traceback(error),
            (retryable or is_shortage(error)) and not known,
        )

    def _check_files(self) -> None:
        """Refuse to go on without a file that was modified, however well the plugin got along without it."""
        if self._imports is not None and self._imports.modified:
            raise ReleaseModifiedError(self._imports.modified)

    def _file_modified(self, sentence: str) -> None:
        """Tell the host, before it hears what came of it; called in the thread that imports."""
        message = Modified(sentence[:MAX_LINE])
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - documented: None instead of an error
            self.wire.send(message)
        else:
            self._loop.call_soon_threadsafe(self.wire.send, message)

    async def _examine(self, message: Inspect | Validate) -> None:
        plugin = self._plugin
        try:
            if plugin is None:
                raise HostError("the plugin is not loaded", "not_loaded")
            if isinstance(message, Inspect):
                self.wire.send(Reply(message.id, msgspec.json.encode(plugin.describe())))
            else:
                plugin.parse_config(message.config)
                self.wire.send(Reply(message.id))
        except BaseException as error:  # noqa: BLE001 - the plugin's own code runs here
            self.wire.send(_raised(message.id, error))
        finally:
            self._tasks.pop(message.id, None)

    def _begin(self, message: Call) -> None:
        """Start a call at once instead of at the loop's next turn: a hook that never waits is then done already.

        This is what Python 3.12 calls an eager task, by the functions that asyncio documents for those who
        make tasks of their own ("Extending", task lifetime support): the task exists, is the current one, and
        owns the context while the first step runs here. It goes on from where that step stopped.
        """
        loop = self._loop
        begun = _Begun(self._call(message))
        context = contextvars.copy_context()
        task = asyncio.Task(begun.rest(), loop=loop, context=context)
        self._tasks[message.id] = task
        asyncio.tasks._enter_task(loop, task)  # noqa: SLF001 - documented in "Extending"
        try:
            context.run(begun.first_step)
        finally:
            asyncio.tasks._leave_task(loop, task)  # noqa: SLF001 - as above

    async def _call(self, message: Call) -> None:
        call = message.call
        if isinstance(call, EventCall | FiringCall):
            _delivery.set(call.delivery.id)
        try:
            if self._plugin is None or self._session is None:
                raise HostError("the plugin is not loaded", "not_loaded")
            value = await self._plugin.run(call, self._session)
            self.wire.send(Reply(message.id, None if value is None else _encoded(value)))
        except BaseException as error:  # noqa: BLE001 - SystemExit in a hook is that hook's failure, too
            self.wire.send(_raised(message.id, error))
        finally:
            del self._tasks[message.id]

    def _heartbeat(self) -> None:
        self.wire.send(Heartbeat())
        if self._lines is not None:
            self._lines.tell_of_dropped()
        self._loop.call_later(self._beat, self._heartbeat)


class _Begun:
    """A coroutine whose first step is taken ahead of the task that runs the rest."""

    __slots__ = ("_call", "_waiting", "done")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._call = coroutine.__await__()
        self._waiting: Any = None
        self.done = False

    def first_step(self) -> None:
        """Run up to the first wait. The coroutine lets nothing out: its failures are messages."""
        try:
            self._waiting = next(self._call)
        except StopIteration:
            self.done = True

    async def rest(self) -> None:
        """The body of the task."""
        if not self.done:
            await Resumed(self._call, self._waiting)


class _LogHandler(logging.Handler):
    """Sends log lines to the host, so many a second; more are counted and dropped."""

    def __init__(self, wire: Wire[ToWorker]) -> None:
        super().__init__()
        self._wire = wire
        self._second = 0
        self._sent = 0
        self._dropped = 0
        self._loop = asyncio.get_running_loop()
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line; may be called from a hook's thread."""
        line = LogLine(record.created, record.levelname.lower(), self.format(record)[:MAX_LINE], _delivery.get())
        second = int(record.created)
        if second != self._second:
            self._second, self._sent = second, 0
        if self._sent >= LOG_LINES_PER_SECOND or self._wire.paused_at is not None:
            self._dropped += 1
            return
        self._sent += 1
        self._loop.call_soon_threadsafe(self._wire.send, LogLines([line]))

    def tell_of_dropped(self) -> None:
        """Say how many lines were dropped, where no later line has said so."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._wire.send(LogLines([], dropped))


class _Printed(io.TextIOBase):
    """What a plugin prints, as lines of its log."""

    def __init__(self, handler: _LogHandler, level: int) -> None:
        super().__init__()
        self._handler = handler
        self._level = level
        self._line = ""

    def writable(self) -> bool:
        """Text can be written."""
        return True

    def write(self, text: str) -> int:
        """Log every whole line."""
        *lines, self._line = (self._line + text).split("\n")
        self._line = self._line[-MAX_LINE:]
        for line in lines:
            record = logging.LogRecord("print", self._level, "", 0, line, None, None)
            record.created = time.time()
            self._handler.emit(record)
        return len(text)


def _encoded(value: Any) -> bytes:
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"a hook must return a JSON value: {error}") from None
    if len(encoded) > MAX_PAYLOAD:
        raise ValueError(f"an answer of {len(encoded)} bytes is more than {MAX_PAYLOAD}")
    return encoded


def _raised(number: int, error: BaseException) -> Raised:
    reason = str(error)[:MAX_LINE]
    match error:
        case Retry():
            return Raised(number, "retry", reason, error.after)
        case Drop():
            return Raised(number, "drop", reason)
        case DeadLetter():
            return Raised(number, "dead-letter", reason)
        case HostError():
            return Raised(number, "host", reason, name=error.word, traceback=_traceback(error))
        case InvalidEventError():
            return Raised(number, "host", reason, name=error.code, traceback=_traceback(error))
        case _:
            return Raised(number, "failure", reason, name=type(error).__name__, traceback=_traceback(error))


def _traceback(error: BaseException) -> str:
    """The traceback from the author's first line on: what lies above is the worker's own."""
    frames = error.__traceback__
    while frames is not None and "/plugin_sdk/" in frames.tb_frame.f_code.co_filename and frames.tb_next:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return text[-MAX_TRACEBACK:]


def _end(status: int) -> NoReturn:
    # Not sys.exit: threads of sync hooks and atexit handlers of the plugin must not keep the process.
    os._exit(status)


def run(parts: dict[str, str], *, refused: bool, imports: VerifiedImports | None) -> NoReturn:
    """Serve one plugin over the worker's socket until the host ends it. Never returns.

    Args:
        parts: What became of each part of the sandbox.
        refused: Whether a plugin must not be loaded where a part is unavailable.
        imports: What the plugin's files are held to.
    """
    random.seed()  # a forked generator would give every worker the same numbers
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    with socket.socket(fileno=CONNECTION) as connection:
        connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        asyncio.run(_serve(connection, parts, refused=refused, imports=imports))
    _end(0)


async def _serve(
    connection: socket.socket, parts: dict[str, str], *, refused: bool, imports: VerifiedImports | None
) -> None:
    worker = Worker(missing(parts) if refused else [], imports)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: worker.wire, sock=connection)
    worker.wire.send(Confined(parts))
    await loop.create_future()
