"""A worker's main loop: one plugin, loaded and called as the host says, on one asyncio loop.

Whatever a hook raises is that call's failure and ends nothing else. The worker ends when the host says so,
or when the socket to the host is gone.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable
from typing import Any, Final, NoReturn

import msgspec

from plugin_sdk.calls import HookCall
from plugin_sdk.context import Session
from plugin_sdk.errors import DescriptionError, HostError, PermissionDeniedError, SandboxError
from plugin_sdk.loading import LoadedPlugin
from plugin_sdk.worker.eager_task import eager_task
from plugin_sdk.worker.file_errors import is_shortage
from plugin_sdk.worker.flights import Flights
from plugin_sdk.worker.log_lines import LogHandler, Printed
from plugin_sdk.worker.outcomes import raised, returned, text, trace
from plugin_sdk.worker.sandbox.confinement import CONNECTION
from plugin_sdk.worker.verified_imports import ReleaseModifiedError, VerifiedImports
from plugin_sdk.worker.wire import (
    MAX_NAME,
    MAX_PAYLOAD,
    Answer,
    Ask,
    Call,
    Cancel,
    Confined,
    Deliver,
    GoOn,
    Heartbeat,
    Inspect,
    Load,
    LoadFailed,
    Modified,
    Ready,
    Recall,
    Reply,
    Shutdown,
    ToWorker,
    Validate,
    Wire,
)

MAX_ASKS: Final = 64
"""Requests to the host that may be in flight; further ones wait their turn in the plugin."""
READ_BYTES: Final = 16 * 1024
"""What a worker reads at once: little, because every worker has it."""
DUMP_SIGNAL: Final = signal.SIGUSR1
"""Makes a worker write the stacks of all its threads to its standard error."""


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
        refusal: Why no plugin may be loaded, or nothing.
        imports: What the plugin's files are held to; None where they are imported as they are.
    """

    def __init__(self, refusal: str, imports: VerifiedImports | None = None) -> None:
        self._refusal = refusal
        self._imports = imports
        self._loop = asyncio.get_running_loop()
        if imports is not None:
            imports.told = self._file_modified
        self.wire: Wire[ToWorker] = Wire(ToWorker, self._received, self._host_gone, read_bytes=READ_BYTES)
        self._plugin: LoadedPlugin | None = None
        self._session: Session | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._flights: Flights
        self._asks: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self._beat = 0.5
        self._lines: LogHandler | None = None

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
            self._call(message)
        elif isinstance(message, Deliver):
            self._flights.take(message)
        elif isinstance(message, Answer):
            self._answered(message)
        elif isinstance(message, GoOn):
            self._flights.go_on()
        elif isinstance(message, Recall):
            self._flights.recall(message.ids)
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        elif isinstance(message, Load):
            self._flights = Flights(self._run, self.wire.send, message.concurrency)
            self._tasks[0] = self._loop.create_task(self._load(message))
        elif isinstance(message, Inspect | Validate):
            self._tasks[message.id] = self._loop.create_task(self._examine(message))
        elif isinstance(message, Shutdown):
            self.wire.flush()
            _end(0)

    def _cancel(self, number: int) -> None:
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()
        else:
            self._flights.cancel(number)

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
        handler = self._lines = LogHandler(self.wire.send, lambda: self.wire.paused_at is not None)
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        sys.stdout = Printed(handler, logging.INFO)
        sys.stderr = Printed(handler, logging.WARNING)
        self._beat = message.heartbeat
        self._heartbeat()
        retryable = False
        try:
            if self._refusal:
                raise SandboxError(self._refusal)
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
            return LoadFailed(ReleaseModifiedError.__name__, text(self._imports.modified), "", retryable=False)
        known = isinstance(error, DescriptionError | SandboxError) or (
            isinstance(error, HostError) and error.word == "config_invalid"
        )
        return LoadFailed(
            text(type(error).__name__, MAX_NAME),
            text(error),
            "" if known else trace(error),
            (retryable or is_shortage(error)) and not known,
        )

    def _check_files(self) -> None:
        """Refuse to go on without a file that was modified, however well the plugin got along without it."""
        if self._imports is not None and self._imports.modified:
            raise ReleaseModifiedError(self._imports.modified)

    def _file_modified(self, sentence: str) -> None:
        """Tell the host, before it hears what came of it; called in the thread that imports."""
        message = Modified(text(sentence))
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
            self.wire.send(raised(message.id, error))
        finally:
            self._tasks.pop(message.id, None)

    def _call(self, message: Call) -> None:
        task = eager_task(self._answer(message), self._loop)
        if task is not None:
            self._tasks[message.id] = task

    def _run(self, call: HookCall) -> Awaitable[Any]:
        if self._plugin is None or self._session is None:
            raise HostError("the plugin is not loaded", "not_loaded")
        return self._plugin.run(call, self._session)

    async def _answer(self, message: Call) -> None:
        try:
            value = await self._run(message.call)
            self.wire.send(returned(message.id, value))
        except BaseException as error:  # noqa: BLE001 - SystemExit in a hook is that hook's failure, too
            self.wire.send(raised(message.id, error))
        finally:
            self._tasks.pop(message.id, None)  # not there yet where the first step is the last

    def _heartbeat(self) -> None:
        self.wire.send(Heartbeat())
        if self._lines is not None:
            self._lines.tell_of_dropped()
        self._loop.call_later(self._beat, self._heartbeat)


def _end(status: int) -> NoReturn:
    # Not sys.exit: threads of sync hooks and atexit handlers of the plugin must not keep the process.
    os._exit(status)


def run(parts: dict[str, str], *, refusal: str, imports: VerifiedImports | None) -> NoReturn:
    """Serve one plugin over the worker's socket until the host ends it. Never returns.

    Args:
        parts: What became of each part of the sandbox.
        refusal: Why no plugin may be loaded, or nothing.
        imports: What the plugin's files are held to.
    """
    random.seed()  # a forked generator would give every worker the same numbers
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    with socket.socket(fileno=CONNECTION) as connection:
        connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        asyncio.run(_serve(connection, parts, refusal=refusal, imports=imports))
    _end(0)


async def _serve(
    connection: socket.socket, parts: dict[str, str], *, refusal: str, imports: VerifiedImports | None
) -> None:
    worker = Worker(refusal, imports)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: worker.wire, sock=connection)
    worker.wire.send(Confined(parts))
    await loop.create_future()
