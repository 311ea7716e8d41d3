"""One HTTP process from the host's side: how it is started, spoken to and ended. When, is for `HttpProcesses`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from host.api.connection_counts import Cut
from host.api.processes.channel import Channel
from host.api.processes.wire import InForce, KnownTokens, MakeRoom, Moved, Ready, Stop, ToHost

MAX_BACKLOG: Final = 2 * 2**20
"""Bytes that may wait for a process before it is given no more connections: it does not read."""
KILL_SECONDS: Final = 5.0
"""How long a process that was killed may take to be gone; where it takes longer, the kernel holds it."""
# -I: no environment, no user site, no current directory; -S: no site, for the host's own path is handed over.
_BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from host.api.processes.process import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)

_log = structlog.get_logger(__name__)


class Away:
    """A connection that a process serves, as those see it who count connections.

    Args:
        number: What both sides call it.
        address: Of its peer.
        moves: How often it has changed sides.
        now: The time, as connections have it.
        process: That has it.
    """

    here = False
    known = True
    makes_room = True
    """It ends once no request is served on it: which that is, its process knows."""

    def __init__(self, number: int, address: str, moves: int, now: float, process: HttpProcess) -> None:
        self.number = number
        self.address = address
        self.moves = moves
        self.waits_from = now
        self._process = process

    def end(self, _why: Cut) -> None:
        """End it."""
        self._process.send(MakeRoom(self.number))


class HttpProcess:
    """One process.

    Args:
        take: Called with what it says, beside what is of this class's own concern.
    """

    def __init__(self, take: Callable[[HttpProcess, ToHost, socket.socket | None], None]) -> None:
        self._take = take
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel[ToHost] | None = None
        self._lost = asyncio.Event()
        self._in_force = 0
        self._changed = asyncio.Event()
        self.ready = False
        """Whether it takes connections."""
        self.away: dict[int, Away] = {}
        """The connections that it has."""

    @property
    def pid(self) -> int | None:
        """Its process id, or None before it was started."""
        return None if self._process is None else self._process.pid

    @property
    def takes_more(self) -> bool:
        """Whether it may be given another connection."""
        channel = self._channel
        return self.ready and channel is not None and not channel.closed and channel.waiting_bytes < MAX_BACKLOG

    async def start(self) -> None:
        """Start it; from here on it can be spoken to.

        Raises:
            OSError: it cannot be started.
        """
        mine, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-I", "-S", *(("-B",) if sys.dont_write_bytecode else ()), "-c", _BOOT),
                    _path(),
                    *(str(theirs.fileno()), str(os.getpid())),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    env={name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ},
                    cwd="/",
                )
            except BaseException:  # it was not started, or nobody waits for it any more; raised again
                mine.close()
                raise
        self._channel = Channel(mine, msgspec.msgpack.Decoder(ToHost), self._told, self._lost.set)
        self._channel.start()

    def send(self, message: Any, beside: int = -1) -> None:
        """Say something to it; as `Channel.send`."""
        if self._channel is not None:
            self._channel.send(message, beside)

    async def ended(self) -> int | None:
        """Wait until it is gone, or cannot be spoken to any more; its exit status where it has one."""
        process = self._process
        if process is None:
            return None
        gone = asyncio.ensure_future(process.wait())
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait((gone, lost), return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                await asyncio.wait((gone,), timeout=1.0)  # it closes its end before it is gone
            return process.returncode
        finally:
            gone.cancel()
            lost.cancel()

    async def go_by(self, message: KnownTokens, within: float) -> None:
        """Have it go by these tokens; where it does not say so in time, it is killed, and lets nobody in any more.

        One that takes no connections yet goes by them before the first one comes, for messages stay in order.
        """
        self.send(message)
        if not self.ready:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._in_force < message.change and not self._lost.is_set():
                    self._changed.clear()
                    changed = asyncio.ensure_future(self._changed.wait())
                    lost = asyncio.ensure_future(self._lost.wait())
                    try:
                        await asyncio.wait((changed, lost), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        changed.cancel()
                        lost.cancel()
        if self._in_force < message.change:
            await self.kill()

    async def stop(self, grace: float) -> None:
        """Let what it serves end within `grace` seconds, then end it."""
        self.ready = False
        self.send(Stop(grace))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self.ended()
        await self.kill()

    async def kill(self) -> None:
        """End it now, if it is not gone; what it had is cut off."""
        self.ready = False
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            try:
                async with asyncio.timeout(KILL_SECONDS):
                    await process.wait()
            except TimeoutError:
                _log.warning("http_process_not_gone", pid=process.pid)
        if self._channel is not None:
            self._channel.close()
        self._lost.set()

    def _told(self, message: ToHost, beside: socket.socket | None) -> None:
        match message:
            case Ready():
                self.ready = True
                _log.info("http_process_ready", pid=self.pid)
            case InForce():
                self._in_force = message.change
                self._changed.set()
            case Moved() if beside is None:
                raise TypeError("a connection comes with its socket")
            case _:
                self._take(self, message, beside)


def _path() -> str:
    """Where this process imports from, for another one in another folder."""
    return json.dumps([str(Path(folder).absolute()) for folder in sys.path])
