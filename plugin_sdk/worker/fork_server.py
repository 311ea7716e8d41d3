"""The fork server: a small process that has imported the SDK and nothing of a plugin, and forks workers.

It holds no secret, no database and no listening socket; a worker forked from it shares its memory until it
writes. One SOCK_SEQPACKET socket leads to the host: a request is one packet, a worker's own socket comes with
it as a passed descriptor. When the host is gone the socket ends, the fork server ends, and with it every
worker (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import selectors
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final, NoReturn

import msgspec

# Loaded here, once, so that every worker shares these pages instead of loading its own.
import plugin_sdk
import plugin_sdk.loading
import plugin_sdk.worker.main

__all__ = ["Exited", "Forked", "Kill", "Spawn", "main"]

PRELOADED: Final = (plugin_sdk, plugin_sdk.loading, plugin_sdk.worker.main)
MAX_PACKET: Final = 64 * 1024
PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
OPEN_FILES: Final = 256
ADDRESS_SPACE_SLACK: Final = 512 * 2**20
"""Address space a worker may map beyond its memory: libraries and thread stacks that are never touched."""


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Fork a worker; its socket comes with the packet. `memory` is in bytes."""

    id: int
    folder: str
    memory: int


class Kill(msgspec.Struct, frozen=True, array_like=True, tag=2):
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


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Spawn | Kill).decode


class ForkServer:
    """Forks on request, reaps, reports. Single-threaded, so that a fork copies a whole, sane process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: set[int] = set()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

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
        data, descriptors, _, _ = socket.recv_fds(self._control, MAX_PACKET, 1)
        if not data:
            return False
        request = _decode(data)
        if isinstance(request, Kill):
            if request.pid in self._children:
                os.killpg(request.pid, request.signal)
            return True
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(Forked(request.id, 0, str(error)))
        else:
            if pid == 0:
                _become_worker(request, descriptors[0])
            self._children.add(pid)
            self._tell(Forked(request.id, pid))
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._tell(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _tell(self, message: Forked | Exited) -> None:
        self._control.send(_encode(message))


def _become_worker(request: Spawn, descriptor: int) -> NoReturn:
    """In the child: give up what it does not need, then serve the plugin. Never returns."""
    try:
        _confine(request, descriptor)
        _serve(descriptor)
    except BaseException as error:  # noqa: BLE001 - the last stop before the process ends
        os.write(2, f"worker: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(70)  # EX_SOFTWARE


def _confine(request: Spawn, descriptor: int) -> None:
    server = os.getppid()
    signal.set_wakeup_fd(-1)
    for default in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(default, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != server:
        os._exit(0)  # the fork server ended before the signal was armed
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    kept = os.dup2(descriptor, 3)
    os.closerange(kept + 1, _highest_descriptor())
    os.umask(0o077)
    os.chdir(request.folder)
    for name in tuple(os.environ):
        if name not in {"LANG", "LC_ALL", "TZ"}:
            del os.environ[name]
    os.environ.update({"HOME": request.folder, "TMPDIR": request.folder, "PATH": "/usr/bin:/bin"})
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    space = request.memory + ADDRESS_SPACE_SLACK
    resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _highest_descriptor() -> int:
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1


def _serve(_descriptor: int) -> None:
    import asyncio  # noqa: PLC0415 - already loaded; named here, where the worker's own loop begins
    import random  # noqa: PLC0415 - as above

    random.seed()  # a forked generator would give every worker the same numbers
    with socket.socket(fileno=3) as connection:
        connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        asyncio.run(plugin_sdk.worker.main.serve(connection))


def main(descriptor: int) -> None:
    """Entry point: serve the control socket `descriptor`."""
    sys.dont_write_bytecode = True
    # An empty prefix: a stray __pycache__ beside a plugin's source is never looked at.
    sys.pycache_prefix = "/nonexistent"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=descriptor)
    ForkServer(control).run()
