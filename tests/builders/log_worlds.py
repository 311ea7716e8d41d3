"""A database whose log is written by a core in a thread or in a process, and started again as the host does it."""

import asyncio
import contextlib

from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from host.storage.errors import (
    LogWriterError,
)
from host.storage.log_writer import links
from host.storage.log_writer.links import ProcessLink, thread_link
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import new_event

LINKS = {"thread": thread_link, "process": ProcessLink}


@contextlib.asynccontextmanager
async def opened(path, kind="process"):
    """A database and its log, and the task that starts the writer again."""
    database = await Database.open(path, link=LINKS[kind](path))
    running = asyncio.create_task(keep(database.log))
    try:
        yield database, await SQLiteLog.open(database, SystemClock())
    finally:
        running.cancel()
        await asyncio.wait((running,))
        await database.close()


async def keep(writer):
    """What the host's background parts do, without their waits."""
    while True:
        with contextlib.suppress(LogWriterError):
            await writer.run()


def event(id_, **more):
    return new_event("a.b", source="/tests", id=str(id_), **more)


def submit(log, one):
    return log.append(one, one.to_json())


async def append(log, *events):
    return await asyncio.gather(*(submit(log, one) for one in events), return_exceptions=True)


async def ids(log):
    return [stored.event.id for stored in await log.read(0, 1_000_000)]


def boot_with(statements):
    """What the process runs, with something done to it before it begins."""
    return links._BOOT.replace("; main(", f"; {statements}; main(")
