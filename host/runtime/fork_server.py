"""The host's side of the fork server: start it, ask it for workers, hear of their ends, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

from host.observe.health import Check
from host.runtime.errors import ForkServerError
from host.runtime.sandbox import Prepared
from plugin_sdk.worker.fork_server import Door, Exited, Forked, Signal, Spawn

START_SECONDS: Final = 30.0
MAX_PACKET: Final = 64 * 1024
MAX_FORKING: Final = 16
"""Requests to fork that are open at once: they fit into the socket, and more would not start sooner."""

ARENAS: Final = "2"
"""Parts of the heap (glibc) in each worker. By default nearly every thread reserves one of 64 MiB: ten would use up the
address space of a worker, and those that hang in one kind of hook would leave none to start one for another."""
# -I: no environment, no user site, no current directory; -S: no site, so no .pth runs; -B: no bytecode written.
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from plugin_sdk.worker.fork_server import main; main(int(sys.argv[2]), sys.argv[3:])"
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Child:
    """A worker that was forked.

    `exited` answers its exit status: negative for a signal, None where the fork server went first. `number` is what
    its door is asked for by.
    """

    pid: int
    exited: asyncio.Future[int | None]
    number: int


class ForkServer:
    """Forks workers. One for a host.

    Args:
        sdk_path: The folder that the SDK is imported from (`sdk_path.build_sdk_path`).
        ways: Paths to which it opens ways for users of plugins (`sandbox.ways_for`).
    """

    def __init__(self, sdk_path: Path, ways: Sequence[Path] = ()) -> None:
        self._sdk_path = sdk_path
        self._ways = tuple(map(str, ways))
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._forks: dict[int, asyncio.Future[Child]] = {}
        self._exits: dict[int, asyncio.Future[int | None]] = {}
        self._doors: dict[int, socket.socket] = {}
        self._numbers: dict[int, int] = {}
        self._number = 0
        self._trouble = ""
        self._starting = asyncio.Lock()
        self._turn = asyncio.Semaphore(MAX_FORKING)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Forked | Exited | Door).decode

    @property
    def pid(self) -> int | None:
        """Its process id, or None while it does not run."""
        return None if self._process is None else self._process.pid

    def check(self) -> Check:
        """That it runs, or was not needed yet. One that ended is started again with the next worker."""
        if self._trouble:
            return Check("fork-server", "warn", f"{self._trouble}; it is started with the next worker")
        return Check("fork-server", "pass", "" if self.pid else "not started yet: no plugin needed it")

    async def spawn(self, connection: socket.socket, errors: int, prepared: Prepared) -> Child:
        """Fork a worker that serves `connection` and writes its last words to the descriptor `errors`.

        The server is started where it does not run.

        Raises:
            ForkServerError: it could not be started, or could not fork.
        """
        async with self._turn:
            return await self._spawn(connection, errors, prepared)

    async def _spawn(self, connection: socket.socket, errors: int, prepared: Prepared) -> Child:
        async with self._starting:
            if self._control is None:
                await self._start()
        control = self._control
        if control is None:
            raise ForkServerError("the fork server ended while it started: see its log lines")
        self._number += 1
        number = self._number
        forked: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._forks[number] = forked
        try:
            packet = self._encode(Spawn(number, prepared.confinement, prepared.path if prepared.cold_start else []))
            with _memory_file(prepared.digests) as file:
                socket.send_fds(control, [packet], [connection.fileno(), errors, file.fileno()])
            async with asyncio.timeout(START_SECONDS):
                return await forked
        except (OSError, TimeoutError) as error:
            raise ForkServerError(f"the fork server does not fork: {error or 'no answer'}") from None
        finally:
            self._forks.pop(number, None)

    def door(self, child: Child) -> socket.socket | None:
        """The listening socket in the network namespace of a worker that has said it is confined, if it has one."""
        self._readable()  # the door was handed over before the worker said so
        return self._doors.pop(child.number, None)

    def kill(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a worker's process group; nothing happens where it has ended already."""
        if self._control is not None and pid in self._exits:
            try:
                self._control.send(self._encode(Signal(pid, number)))
            except OSError as error:
                _log.warning("fork_server_unreachable", error=str(error))

    async def stop(self) -> None:
        """End it, and with it every worker that is left."""
        process = self._process
        self._lost()
        if process is not None:
            try:
                async with asyncio.timeout(5):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _start(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", "-B", "-c", _BOOT, str(self._sdk_path), str(theirs.fileno()), *self._ways),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env={
                    **{name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ},
                    "MALLOC_ARENA_MAX": ARENAS,
                },
                cwd="/",
            )
        except OSError as error:
            mine.close()
            self._trouble = f"it cannot be started: {error}"
            raise ForkServerError(f"the fork server cannot be started: {error}") from None
        finally:
            theirs.close()
        self._control = mine
        self._trouble = ""
        asyncio.get_running_loop().add_reader(mine.fileno(), self._readable)
        _log.info("fork_server_started", pid=self._process.pid)

    def _readable(self) -> None:
        while self._control is not None:
            descriptors: list[int] = []
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._control, MAX_PACKET, 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                _log.error("fork_server_ended", workers=len(self._exits))
                self._trouble = "it ended, and with it every worker"
                self._lost()
                return
            try:
                self._told(self._decode(packet), descriptors)
            except Exception as error:  # noqa: BLE001 - logged; one whose word is not understood is of no use any more
                _log.exception("fork_server_not_understood", workers=len(self._exits))
                for descriptor in descriptors:
                    with contextlib.suppress(OSError):  # one that has an owner already
                        os.close(descriptor)
                self._trouble = f"it was not understood, and ended: {error}"
                self._lost()
                return

    def _told(self, message: Forked | Exited | Door, descriptors: list[int]) -> None:
        if isinstance(message, Door):
            for descriptor in descriptors:
                self._doors[message.id] = socket.socket(fileno=descriptor)
            return
        if isinstance(message, Exited):
            door = self._doors.pop(self._numbers.pop(message.pid, 0), None)
            if door is not None:
                door.close()
            exited = self._exits.pop(message.pid, None)
            if exited is not None and not exited.done():
                exited.set_result(message.status)
            return
        forked = self._forks.get(message.id)
        if message.error:
            if forked is not None and not forked.done():
                forked.set_exception(ForkServerError(f"a worker cannot be forked: {message.error}"))
            return
        # Noted before anyone asks, because its end may be told in the very next packet.
        exits: asyncio.Future[int | None]
        exits = self._exits[message.pid] = asyncio.get_running_loop().create_future()
        self._numbers[message.pid] = message.id
        if forked is None or forked.done():
            self.kill(message.pid, signal.SIGKILL)
        else:
            forked.set_result(Child(message.pid, exits, message.id))

    def _lost(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        self._process = None
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(ForkServerError("the fork server ended"))
        exits, self._exits = self._exits, {}
        for exited in exits.values():
            if not exited.done():
                exited.set_result(None)
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        self._numbers.clear()


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[BinaryIO]:
    """A file without a name, at its beginning: it may be larger than a packet."""
    with os.fdopen(os.memfd_create("digests"), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file
