"""Events per second into the log, beside the same rows written one transaction each.

`append` has 256 publishers that each wait for their event to be durable, beside `aiosqlite` used the
ordinary way (execute, commit, next). `append-raw` is the same beside blocking `sqlite3`, the fastest that
one fsync for each event can be. All sides write the same bytes into the same schema with the same pragmas
on one file system, encode each event themselves, and take turns in one run.

In these two, ids rise and a subject's events come in runs, as a producer's counter or a time-ordered UUID
gives them. `append-random-ids` has random UUIDs and interleaved subjects instead: every event then touches
pages of its own in the indexes, which one commit cannot share. That is the log at its worst.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import aiosqlite
import uvloop

from benchmarks.measure import Figure
from host.routing.sqlite_log import SQLiteLog
from host.storage.connection import PRAGMAS
from host.storage.database import Database
from host.storage.log_writer.links import ProcessLink
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import Event, new_event

NAME: Final = "append"
PUBLISHERS: Final = 256
ROUNDS: Final = 11
EVENTS: Final = 10_000
PEER_EVENTS: Final = 800

_INSERT: Final = (
    "INSERT INTO events (sequence, source, id, type, subject, appended_at, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class _Rates:
    """Events per second of each side."""

    log: float
    ordinary: float
    blocking: float


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ordered = runner.run(_measure(_rising))
        yield Figure("append", ordered.log, "events/s", "aiosqlite, one transaction each", ordered.ordinary)
        yield Figure("append-raw", ordered.log, "events/s", "sqlite3, one transaction each", ordered.blocking)
        mixed = runner.run(_measure(_random))
        yield Figure("append-random-ids", mixed.log, "events/s", "aiosqlite, one transaction each", mixed.ordinary)


async def _measure(make: Callable[[int, int], Event]) -> _Rates:
    with tempfile.TemporaryDirectory(prefix="busbar-append-") as folder:
        paths = [Path(folder) / name for name in ("log.db", "aiosqlite.db", "sqlite3.db")]
        for path in paths:
            await (await Database.open(path, clock=SystemClock())).close()
        database = await Database.open(paths[0], clock=SystemClock(), link=ProcessLink(paths[0]))  # as the daemon does
        try:
            log = await SQLiteLog.open(database, SystemClock())
            await _log_rate(log, [make(-1, at) for at in range(PUBLISHERS)])
            rounds = [await _round(log, paths[1], paths[2], make, number) for number in range(ROUNDS)]
        finally:
            await database.close()
    return _Rates(
        statistics.median(one.log for one in rounds),
        statistics.median(one.ordinary for one in rounds),
        statistics.median(one.blocking for one in rounds),
    )


async def _round(
    log: SQLiteLog, ordinary: Path, blocking: Path, make: Callable[[int, int], Event], number: int
) -> _Rates:
    events = [make(number, at) for at in range(EVENTS)]
    return _Rates(
        log=await _log_rate(log, events),
        ordinary=await _aiosqlite_rate(ordinary, events[:PEER_EVENTS]),
        blocking=_sqlite3_rate(blocking, events[:PEER_EVENTS]),
    )


def _rising(number: int, at: int) -> Event:
    return _event(f"{number:03d}-{at:07d}", f"project-{at // 100:05d}", at)


def _random(number: int, at: int) -> Event:
    return _event(str(uuid.uuid4()), f"project-{at % 100:05d}", number)


def _event(event_id: str, subject: str, count: int) -> Event:
    return new_event(
        "milestone.completed",
        source="/benchmarks/append",
        subject=subject,
        data={"milestone": count, "title": "The roof is on", "people": ["ada", "grace"]},
        id=event_id,
    )


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
