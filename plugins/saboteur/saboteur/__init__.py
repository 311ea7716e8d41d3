"""Saboteur: the test-bed for isolation. It does its work well until it is told to misbehave.

Events: `saboteur.work` with `{"key": …}` is work: it is written down, and fails as the standing mode says.
`saboteur.switch` with `{"mode": …}` sets the standing mode. `saboteur.command` with `{"mode": …}` misbehaves
once. The modes are the methods of `Misbehaviour`, and `ok`. The service `attempt` tries what a sandbox refuses.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from plugin_sdk import Context, Event, Plugin, on_event, service


class Config(BaseModel):
    """`mode` is the standing mode; new config overrides what a switch has set."""

    mode: str = "ok"


class Misbehaviour:
    """Each method is a mode. Most do not return."""

    async def raise_(self, context: Context) -> None:
        """Raise an ordinary exception."""
        raise RuntimeError("sabotage")

    async def hang(self, context: Context) -> None:
        """Wait for ever, with the loop free."""
        await asyncio.Event().wait()

    async def block(self, context: Context) -> None:
        """Sleep for a minute without yielding: the loop stands still."""
        time.sleep(60)  # noqa: ASYNC251 - blocking is the point

    async def spin(self, context: Context) -> None:
        """Compute for ever without yielding."""
        while True:
            pass

    async def exit(self, context: Context) -> None:
        """End the process at once."""
        os._exit(3)

    async def sysexit(self, context: Context) -> None:
        """Raise SystemExit."""
        sys.exit(4)

    async def segfault(self, context: Context) -> None:
        """Read address zero."""
        ctypes.string_at(0)

    async def leak(self, context: Context) -> None:
        """Take memory until there is none."""
        hoard = []
        while True:
            hoard.append(bytearray(4 * 2**20))
            await asyncio.sleep(0.01)

    async def flood(self, context: Context) -> None:
        """Emit events as fast as the host takes them, many at once, until it refuses."""
        await _at_once(context.emit("saboteur.flood", data={"number": number}) for number in range(5000))

    async def hoard(self, context: Context) -> None:
        """Write keys as fast as the host takes them, until it refuses."""
        await _at_once(context.kv.set(f"hoard/{number % 10}", "x" * 1000) for number in range(5000))

    async def chatter(self, context: Context) -> None:
        """Log ten thousand lines."""
        for number in range(10_000):
            context.log.info("chatter %d", number)

    async def slow(self, context: Context) -> None:
        """Take two seconds, politely."""
        await asyncio.sleep(2)

    async def stubborn(self, context: Context) -> None:
        """Go on for ever, whoever cancels it."""
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def fork(self, context: Context) -> None:
        """Fork, and have every child do the same."""
        while True:
            os.fork()

    async def threads(self, context: Context) -> None:
        """Start threads that compute for ever."""
        while True:
            threading.Thread(target=_compute, daemon=True).start()

    async def descriptors(self, context: Context) -> None:
        """Open files and never close them."""
        kept = []
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))

    async def fill(self, context: Context) -> None:
        """Fill the disk, a file after another."""
        block = bytes(2**20)
        for number in itertools.count():
            with Path(f"filling-{number}").open("wb") as file:  # noqa: ASYNC230 - blocking is nothing beside this
                for _ in range(64):
                    file.write(block)
                    await asyncio.sleep(0)

    async def garbage(self, context: Context) -> None:
        """Write what is no frame into the socket to the host."""
        os.write(_socket(), b"\xff" * 4096)
        await asyncio.Event().wait()

    async def heartbeats(self, context: Context) -> None:
        """Send well-formed frames that say nothing, as fast as the socket takes them."""
        frame = (1 + 256 * 2 + 2).to_bytes(4, "big") + b"\xdc\x01\x00" + b"\x91\x07" * 256
        while True:
            with contextlib.suppress(BlockingIOError):
                os.write(_socket(), frame)
            await asyncio.sleep(0)

    async def unread(self, context: Context) -> None:
        """Ask for more than a socket holds, and never read the answers."""
        await context.kv.set("large", "x" * 200_000)
        loop: Any = asyncio.get_running_loop()
        loop._remove_reader(_socket())  # noqa: SLF001 - an attacker knows no manners
        for _ in range(32):
            asyncio.ensure_future(context.kv.get("large"))  # noqa: RUF006 - nobody waits for it
        await asyncio.Event().wait()


class Attempt:
    """Each method tries something that the sandbox is there to refuse, and answers what it got."""

    def read(self, target: str) -> str:
        """Read a file."""
        return Path(target).read_text(encoding="utf-8", errors="replace")[:20]

    def write(self, target: str) -> str:
        """Write a file."""
        return str(Path(target).write_text("sabotage", encoding="utf-8"))

    def list(self, target: str) -> str:
        """List a folder."""
        return ", ".join(sorted(os.listdir(target)))  # noqa: PTH208 - the plainest way is the one to try

    def run(self, target: str) -> str:
        """Run a program."""
        return subprocess.run([target], check=True, capture_output=True, text=True).stdout

    def connect(self, target: str) -> str:
        """Connect to an address."""
        address, _, port = target.rpartition(":")
        with socket.create_connection((address, int(port)), timeout=2):
            return "connected"

    def connect_unix(self, target: str) -> str:
        """Connect to a Unix socket."""
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(target)
            return "connected"

    def datagram(self, target: str) -> str:
        """Send one packet."""
        address, _, port = target.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            return f"sent {made.sendto(b'sabotage', (address, int(port)))}"

    def listen(self, target: str) -> str:
        """Listen on a port."""
        with socket.create_server(("0.0.0.0", int(target))):  # noqa: S104 - the point
            return "listening"

    def signal(self, target: str) -> str:
        """Kill a process; the parent where none is named."""
        os.kill(int(target) if target else os.getppid(), signal.SIGKILL)
        return "sent"

    def trace(self, target: str) -> str:
        """Attach to a process as a debugger does."""
        return _system_call("ptrace", 16, int(target), 0, 0)

    def limit(self, target: str) -> str:
        """Take another process's open files."""
        resource.prlimit(int(target), resource.RLIMIT_NOFILE, (0, 0))
        return "limited"

    def mount(self, target: str) -> str:
        """Mount a file system."""
        return _system_call("mount", b"none", target.encode(), b"tmpfs", 0, None)

    def unshare(self, target: str) -> str:
        """Make namespaces, in which one is root."""
        return _system_call("unshare", int(target or "0x10000000", 0))

    def environment(self, target: str) -> str:
        """Look at the environment."""
        return ", ".join(sorted(os.environ))

    def held(self, target: str) -> str:
        """Say which descriptors above the standard ones are open, and what they are."""
        found = []
        for number in range(3, 64):
            with contextlib.suppress(OSError):
                mode = os.fstat(number).st_mode
                found.append("socket" if stat.S_ISSOCK(mode) else "file" if stat.S_ISREG(mode) else "other")
        return ", ".join(found)


async def _at_once(requests: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Make all requests at once, until the first is refused."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _compute() -> None:
    while True:
        pass


def _socket() -> int:
    """The descriptor of the socket to the host, as an attacker finds it."""
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                return number
    raise LookupError("there is no socket")


def _system_call(name: str, *arguments: Any) -> str:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return "done"


MODES = tuple(name.rstrip("_") for name in vars(Misbehaviour) if not name.startswith("_"))
ATTEMPTS = tuple(name for name in vars(Attempt) if not name.startswith("_"))


class Saboteur(Plugin):
    """Keeps the standing mode in memory, so that a restart makes it well; the config's mode is where it begins."""

    Config = Config

    def __init__(self) -> None:
        super().__init__()
        self._mode = "ok"

    async def start(self, context: Context) -> None:
        """Begin with the configured mode."""
        self._mode = context.config.mode

    async def config_changed(self, config: Any, context: Context) -> None:
        """Take the configured mode."""
        self._mode = config.mode

    @on_event("saboteur.work", first_retry=0.2, longest_retry=5.0, attempts=100)
    async def work(self, event: Event, context: Context) -> None:
        """Misbehave as the standing mode says, else write down what was done."""
        await _misbehave(self._mode, context)
        await context.kv.set(f"handled/{event.data['key']}", event.time)

    @on_event("saboteur.command", attempts=2, first_retry=0.2)
    async def command(self, event: Event, context: Context) -> None:
        """Misbehave once."""
        await _misbehave(event.data["mode"], context)

    @on_event("saboteur.switch")
    async def switch(self, event: Event) -> None:
        """Set the standing mode."""
        self._mode = event.data["mode"]

    @service
    async def attempt(self, what: str, target: str = "") -> dict[str, str]:
        """Try one of the `Attempt`s: what it `got`, or the exception that it `met`."""
        if what not in ATTEMPTS:
            raise ValueError(f"no attempt '{what}': there are {', '.join(ATTEMPTS)}")
        try:
            return {"got": getattr(Attempt(), what)(target), "met": ""}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return {"got": "", "met": f"{type(error).__name__}: {error}"}

    @service
    async def handled(self, context: Context) -> dict[str, Any]:
        """The keys of all the work that was done."""
        keys: list[str] = []
        while page := await context.kv.keys("handled/", after=keys[-1] if keys else ""):
            keys += page
        return {"keys": [key.removeprefix("handled/") for key in keys], "mode": self._mode}


async def _misbehave(mode: str, context: Context) -> None:
    if mode == "ok":
        return
    if mode not in MODES:
        raise ValueError(f"no mode '{mode}': there are {', '.join(MODES)}")
    await getattr(Misbehaviour(), "raise_" if mode == "raise" else mode)(context)
