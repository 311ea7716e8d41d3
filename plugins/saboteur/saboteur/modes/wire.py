"""Hooks that go past the SDK and write to the socket to the host themselves."""

import asyncio
import contextlib
import os
import stat
from typing import Any

from plugin_sdk import Context


async def garbage(context: Context) -> None:
    """Write what is no frame into the socket to the host."""
    os.write(_socket(), b"\xff" * 4096)
    await asyncio.Event().wait()


async def heartbeats(context: Context) -> None:
    """Send well-formed frames that say nothing, as fast as the socket takes them."""
    frame = (1 + 256 * 2 + 2).to_bytes(4, "big") + b"\xdc\x01\x00" + b"\x91\x07" * 256
    while True:
        with contextlib.suppress(BlockingIOError):
            os.write(_socket(), frame)
        await asyncio.sleep(0)


async def unread(context: Context) -> None:
    """Ask for more than a socket holds, and never read the answers."""
    await context.kv.set("large", "x" * 200_000)
    loop: Any = asyncio.get_running_loop()
    loop._remove_reader(_socket())  # noqa: SLF001 - an attacker knows no manners
    for _ in range(32):
        asyncio.ensure_future(context.kv.get("large"))  # noqa: RUF006 - nobody waits for it
    await asyncio.Event().wait()


async def numbers(context: Context) -> None:
    """Answer, past the SDK, with numbers and texts that are out of every range: each costs the worker its life."""
    raised, nan = b"\x04", b"\xcb\x7f\xf8" + bytes(6)
    message = b"\x95" + raised + b"\x01\xa5retry\xa0" + nan
    os.write(_socket(), (len(message) + 1).to_bytes(4, "big") + b"\x91" + message)
    await asyncio.Event().wait()


def _socket() -> int:
    """The descriptor of the socket to the host, as an attacker finds it."""
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                return number
    raise LookupError("there is no socket")
