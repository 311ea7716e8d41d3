"""The fork server: a small process that has imported the SDK and nothing of a plugin, and forks workers.

It holds no secret, no database and no listening socket; a worker forked from it shares its memory until it
writes. One SOCK_SEQPACKET socket leads to the host: a request is one packet, and a worker's own socket, the
pipe for its last words and the digests of its plugin's files come with it as passed descriptors. When the host is
gone the socket ends, the fork server ends, and with it every worker (PR_SET_PDEATHSIG).

A worker that must not share the SDK's modules starts cold instead: the same fork, then a new interpreter,
which is confined before the plugin's folder is on its path.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

import msgspec

# Loaded here, once, so that every worker shares these pages instead of loading its own.
import plugin_sdk
import plugin_sdk.loading
import plugin_sdk.worker.main
from plugin_sdk.worker import verified_imports
from plugin_sdk.worker.digests import hash_files
from plugin_sdk.worker.sandbox import seccomp
from plugin_sdk.worker.sandbox.confinement import CONNECTION, DIGESTS, DOOR, LIFELINE, Confinement, confine, refusal
from plugin_sdk.worker.sandbox.libc import PR_SET_PDEATHSIG, prctl
from plugin_sdk.worker.sandbox.ways import open_ways

__all__ = ["Door", "Exited", "Forked", "Signal", "Spawn", "main"]

PRELOADED: Final = (plugin_sdk, plugin_sdk.loading, plugin_sdk.worker.main)
MAX_PACKET: Final = 64 * 1024
PASSED: Final = 3
"""Descriptors that come with a `Spawn`: the worker's socket, its standard error, and what its files hash to."""
_ABOVE: Final = 16
"""Descriptors are moved up here before they are put into their places."""

# What a worker that starts cold runs. The package is a bare name until the process is confined: importing it as
# usual would import its requirements, which may be the plugin's own.
_COLD: Final = """
import json, os, sys, types
sdk, given = sys.argv[1], json.loads(sys.argv[2])
bare = types.ModuleType("plugin_sdk")
bare.__path__ = [os.path.join(sdk, "plugin_sdk")]
sys.modules["plugin_sdk"] = bare
sys.path.insert(0, sdk)
from plugin_sdk.worker.sandbox.cold import start
start(given)
"""


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Fork a worker, confined as said. `ahead`: start it cold, with these folders ahead of the SDK's modules."""

    id: int
    confinement: Confinement
    ahead: list[str]


class Signal(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Send a signal to a worker's process group, if the worker is still a child of this process."""

    pid: int
    signal: int


class Forked(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A worker was forked; `error` says why not, and then there is no pid."""

    id: int
    pid: int
    error: str = ""


class Exited(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A worker ended: a negative `status` is the signal that ended it."""

    pid: int
    status: int


class Door(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """From a worker, with its door's listening socket; sent before it says that it is confined."""

    id: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Spawn | Signal).decode


class ForkServer:
    """Forks on request, reaps, reports. Single-threaded, so that a fork copies a whole, sane process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: set[int] = set()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Only this process keeps the writing end, so a worker that finds it closed knows that this one is gone.
        self._alive_read, self._alive_write = os.pipe2(os.O_CLOEXEC)

    def run(self) -> None:
        """Serve until the host closes the control socket."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for ignored in (signal.SIGINT, signal.SIGTERM):
            # Ctrl-C reaches the whole process group; the host decides when workers end.
            signal.signal(ignored, signal.SIG_IGN)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._control:
                        if not self._request():
                            return
                    else:
                        os.read(self._wake_read, 4096)
                self._reap()

    def _request(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, MAX_PACKET, PASSED)
        except ConnectionResetError:
            return False  # the host ended with something of ours unread
        if not data:
            return False
        request = _decode(data)
        if isinstance(request, Signal):
            self._signal(request)
            return True
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(Forked(request.id, 0, str(error)))
        else:
            if pid == 0:
                os.close(self._alive_write)
                _become_worker(request, [*descriptors, self._control.fileno(), self._alive_read])
            self._children.add(pid)
            self._tell(Forked(request.id, pid))
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _signal(self, request: Signal) -> None:
        if request.pid not in self._children:
            return
        try:
            os.killpg(request.pid, request.signal)
        except ProcessLookupError:
            os.kill(request.pid, request.signal)  # so young that it has no group of its own yet

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._tell(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _tell(self, message: Forked | Exited) -> None:
        self._control.send(_encode(message))


def _become_worker(request: Spawn, descriptors: list[int]) -> NoReturn:
    """In the child: put the descriptors in their places, confine, serve the plugin. Never returns."""
    try:
        _place(descriptors)
        if request.ahead:
            _start_cold(request)
        parts = confine(request.confinement, request.id)
        imports = verified_imports.install(DIGESTS)
        plugin_sdk.worker.main.run(parts, refusal=refusal(request.confinement, parts), imports=imports)
    except BaseException as error:  # noqa: BLE001 - the last stop before the process ends
        os.write(2, f"worker: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(70)  # EX_SOFTWARE


def _place(descriptors: list[int]) -> None:
    """The worker's socket, its standard error, the digests, the control socket and the lifeline, and nothing else."""
    connection, errors, digests, control, lifeline = (fcntl.fcntl(one, fcntl.F_DUPFD, _ABOVE) for one in descriptors)
    null = os.open(os.devnull, os.O_RDWR)
    for source, place in ((null, 0), (null, 1), (errors, 2), (connection, CONNECTION), (control, DOOR)):
        os.dup2(source, place)
    os.dup2(lifeline, LIFELINE)
    os.dup2(digests, DIGESTS)
    os.closerange(DIGESTS + 1, max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1)


def _start_cold(request: Spawn) -> NoReturn:
    given = {
        "id": request.id,
        "confinement": dataclasses.asdict(request.confinement),
        "ahead": request.ahead,
    }
    sdk = str(Path(plugin_sdk.__file__ or "").parents[1])
    command = [sys.executable, "-I", "-S", "-B", "-c", _COLD, sdk, json.dumps(given)]
    os.execv(sys.executable, command)  # noqa: S606 - the interpreter itself, with arguments of ours


async def _warm_up() -> None:
    """Do once what every worker does first: what is made on the way, and kept, is then shared by all of them."""

    class Warm(plugin_sdk.Plugin):
        @plugin_sdk.on_event("warm.up")
        async def warm(self, event: plugin_sdk.Event, context: plugin_sdk.Context) -> None: ...

    plugin_sdk.worker.main.Worker("")
    plugin = plugin_sdk.loading.LoadedPlugin("warm", Warm)
    msgspec.json.encode(plugin.describe())
    hash_files({"": b""})  # the first hash of a process is what costs memory
    seccomp.make_ready()


def main(descriptor: int, ways: list[str]) -> None:
    """Entry point: serve the control socket `descriptor`, with ways open to these paths for users of plugins."""
    sys.dont_write_bytecode = True
    open_ways([Path(way) for way in ways])
    # An empty prefix: a stray __pycache__ beside a plugin's source is never looked at.
    sys.pycache_prefix = "/nonexistent"
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    asyncio.run(_warm_up())
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=descriptor)
    ForkServer(control).run()
