"""Hooks that take memory, threads, descriptors, processes and disk until there are none."""

import asyncio
import itertools
import os
import threading
from pathlib import Path

from plugin_sdk import Context


async def leak(context: Context) -> None:
    """Take memory until there is none."""
    hoard = []
    while True:
        hoard.append(bytearray(4 * 2**20))
        await asyncio.sleep(0.01)


async def fork(context: Context) -> None:
    """Fork, and have every child do the same."""
    while True:
        os.fork()


async def threads(context: Context) -> None:
    """Start threads that compute for ever."""
    while True:
        threading.Thread(target=_compute, daemon=True).start()


async def descriptors(context: Context) -> None:
    """Open files and never close them."""
    kept = []
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))


async def fill(context: Context) -> None:
    """Fill the disk, a file after another."""
    block = bytes(2**20)
    for number in itertools.count():
        with Path(f"filling-{number}").open("wb") as file:  # noqa: ASYNC230 - blocking is nothing beside this
            for _ in range(64):
                file.write(block)
                await asyncio.sleep(0)


def _compute() -> None:
    while True:
        pass
