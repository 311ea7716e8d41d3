"""Hooks that fail, never end, or end the process."""

import asyncio
import contextlib
import ctypes
import os
import sys
import time

from plugin_sdk import Context


async def raise_(context: Context) -> None:
    """Raise an ordinary exception."""
    raise RuntimeError("sabotage")


async def hang(context: Context) -> None:
    """Wait for ever, with the loop free."""
    await asyncio.Event().wait()


async def block(context: Context) -> None:
    """Sleep for a minute without yielding: the loop stands still."""
    time.sleep(60)  # noqa: ASYNC251 - blocking is the point


async def spin(context: Context) -> None:
    """Compute for ever without yielding."""
    while True:
        pass


async def slow(context: Context) -> None:
    """Take two seconds, politely."""
    await asyncio.sleep(2)


async def stubborn(context: Context) -> None:
    """Go on for ever, whoever cancels it."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


async def exit_(context: Context) -> None:
    """End the process at once."""
    os._exit(3)


async def sysexit(context: Context) -> None:
    """Raise SystemExit."""
    sys.exit(4)


async def segfault(context: Context) -> None:
    """Read address zero."""
    ctypes.string_at(0)
