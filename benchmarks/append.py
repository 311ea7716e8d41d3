"""Events per second into the log, beside the same rows written one transaction each.

`append` has 256 publishers that each wait for their event to be durable, beside `aiosqlite` used the
ordinary way (execute, commit, next). `append-raw` is the same beside blocking `sqlite3`, the fastest that
one fsync for each event can be. All sides write the same bytes into the same schema with the same pragmas
on one file system, encode each event themselves, and take turns in one run.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

import aiosqlite
import uvloop

from benchmarks.measure import Figure
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import PRAGMAS, Database
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import Event, new_event

NAME: Final = "append"
PUBLISHERS: Final = 256
ROUNDS: Final = 5
EVENTS: Final = 40_000
PEER_EVENTS: Final = 1_500

_INSERT: Final = (
    "INSERT INTO events (sequence, source, id, type, subject, appended_at, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure())


async def _measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="busbar-append-") as folder:
        paths = [Path(folder) / name for name in ("log.db", "aiosqlite.db", "sqlite3.db")]
        for path in paths:
            await (await Database.open(path, clock=SystemClock())).close()
        database = await Database.open(paths[0], clock=SystemClock())
        try:
            log = await SQLiteLog.open(database, SystemClock())
            rounds = [await _round(log, paths[1], paths[2], number) for number in range(ROUNDS)]
        finally:
            await database.close()
    ours, theirs, raw = (statistics.median(side) for side in zip(*rounds, strict=True))
    return [
        Figure("append", ours, "events/s", "aiosqlite, one transaction each", theirs),
        Figure("append-raw", ours, "events/s", "sqlite3, one transaction each", raw),
    ]


async def _round(log: SQLiteLog, ordinary: Path, blocking: Path, number: int) -> tuple[float, float, float]:
    ours = await _log_rate(log, _events(number, EVENTS))
    theirs = await _aiosqlite_rate(ordinary, _events(number, PEER_EVENTS))
    return ours, theirs, _sqlite3_rate(blocking, _events(number, PEER_EVENTS))


def _events(number: int, size: int) -> list[Event]:
    return [
        new_event(
            "milestone.completed",
            source="/benchmarks/append",
            subject="project-1",
            data={"milestone": at, "title": "The roof is on", "people": ["ada", "grace"]},
            id=f"{number}-{at}",
        )
        for at in range(size)
    ]


async def _log_rate(log: SQLiteLog, events: list[Event]) -> float:
    waiting = iter(events)

    async def publish() -> None:
        for event in waiting:
            await log.append(event, event.to_json())

    before = log.head()
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(PUBLISHERS):
            group.create_task(publish())
    seconds = time.perf_counter() - started
    assert log.head() == before + len(events)
    return len(events) / seconds


async def _aiosqlite_rate(path: Path, events: list[Event]) -> float:
    async with aiosqlite.connect(path) as connection:
        for pragma in PRAGMAS:
            await connection.execute(pragma)
        sequences = await _after(connection)
        started = time.perf_counter()
        for sequence, event in zip(sequences, events, strict=False):
            await connection.execute(_INSERT, _row(sequence, event))
            await connection.commit()
        return len(events) / (time.perf_counter() - started)


async def _after(connection: aiosqlite.Connection) -> Iterator[int]:
    (row,) = await connection.execute_fetchall("SELECT coalesce(max(sequence), 0) FROM events")
    return count(int(row[0]) + 1)


def _sqlite3_rate(path: Path, events: list[Event]) -> float:
    connection = sqlite3.connect(path)
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
        (highest,) = connection.execute("SELECT coalesce(max(sequence), 0) FROM events").fetchone()
        started = time.perf_counter()
        for sequence, event in enumerate(events, highest + 1):
            connection.execute(_INSERT, _row(sequence, event))
            connection.commit()
        return len(events) / (time.perf_counter() - started)
    finally:
        connection.close()


def _row(sequence: int, event: Event) -> tuple[int, str, str, str, str | None, int, bytes]:
    stamp = time.time_ns() // 1000
    return sequence, event.source, event.id, event.type, event.subject, stamp, event.to_json()
