"""Hooks that take the disk by ways that a look at file sizes does not show."""

import asyncio
import ctypes
import itertools
import os
import tempfile
from pathlib import Path

from plugin_sdk import Context

BLOCK = bytes(2**20)
FILES = 16
"""MiB that go into one file: what a limit on the size of files leaves."""


async def unlinked(context: Context) -> None:
    """Fill files that have no name any more, one after another, and keep them open."""
    kept = []
    while True:
        kept.append(tempfile.TemporaryFile(dir="."))  # noqa: SIM115 - never to be closed
        for _ in range(FILES):
            kept[-1].write(BLOCK)
            await asyncio.sleep(0)


async def allocate(context: Context) -> None:
    """Have blocks kept beyond the end of a file, whose size stays zero (FALLOC_FL_KEEP_SIZE)."""
    library = ctypes.CDLL(None, use_errno=True)
    with Path("allocated").open("wb") as file:  # noqa: ASYNC230 - blocking is nothing beside this
        for number in itertools.count():
            begin, size = ctypes.c_long(number << 28), ctypes.c_long(1 << 28)
            if library.fallocate(file.fileno(), 1, begin, size) < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            await asyncio.sleep(0)


async def nest(context: Context) -> None:
    """Make folders in folders, deeper than any path is long, and fill the disk in the last one."""
    here = os.open(".", os.O_RDONLY)
    for _ in range(60):
        os.mkdir("n" * 200, dir_fd=here)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    for number in itertools.count():
        file = os.open(str(number), os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here)
        for _ in range(FILES):
            os.write(file, BLOCK)
            await asyncio.sleep(0)
        os.close(file)


async def closed(context: Context) -> None:
    """Make a folder that its owner may not list, and fill the disk in it."""
    os.mkdir("closed", 0o300)  # noqa: PTH102 - the plainest way is the one to try
    for number in itertools.count():
        with Path("closed", str(number)).open("wb") as file:  # noqa: ASYNC230 - blocking is nothing beside this
            for _ in range(FILES):
                file.write(BLOCK)
                await asyncio.sleep(0)


async def shut(context: Context) -> None:
    """Make a folder that nobody may enter, and go on as if nothing were."""
    os.mkdir("shut", 0)  # noqa: PTH102 - the plainest way is the one to try
    await asyncio.Event().wait()


async def crumbs(context: Context) -> None:
    """Make files without end that have nothing in them."""
    for number in itertools.count():
        os.close(os.open(f"crumb-{number}", os.O_WRONLY | os.O_CREAT))
        if not number % 100:
            await asyncio.sleep(0)
