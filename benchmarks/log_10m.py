"""Milliseconds to open a log of 10 million events and answer a query by type and time, beside one of 100 thousand.

Both are files that were written before, with the same schema, types and sizes of events; the query has the same
number of matches in both. Each is opened several times, in turns.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.measure import Figure
from host.routing.event_log import EventQuery
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from plugin_sdk.clock import SystemClock

NAME: Final = "log-10m"
MANY: Final = 10_000_000
FEW: Final = 100_000
TYPES: Final = 20
SPACING: Final = 0.05
"""Seconds between two events of the log."""
SPAN: Final = 1000.0
"""Seconds that the query spans: 1,000 events of one type."""
START: Final = 1_760_000_000.0
ROUNDS: Final = 7

_FILL: Final = f"""
INSERT INTO events (sequence, source, id, type, subject, appended_at, body)
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
SELECT n, '/benchmarks', printf('%012d', n), 'benchmark.type-' || (n % {TYPES}), NULL,
CAST(({START} + n * {SPACING}) * 1000000 AS INTEGER),
CAST('{{"specversion":"1.0","id":"' || printf('%012d', n) || '","source":"/benchmarks","type":"benchmark.type-'
|| (n % {TYPES}) || '","data":1}}' AS BLOB) FROM numbers
"""


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with tempfile.TemporaryDirectory(prefix="busbar-log-") as name:
        many, few = Path(name) / "many.db", Path(name) / "few.db"
        for path, events in ((many, MANY), (few, FEW)):
            asyncio.run(_make(path, events))
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            ours.append(asyncio.run(_open_and_ask(many, MANY)))
            theirs.append(asyncio.run(_open_and_ask(few, FEW)))
    return [Figure(NAME, statistics.median(ours) * 1000, "ms", f"{FEW} events", statistics.median(theirs) * 1000)]


async def _make(path: Path, events: int) -> None:
    """A log with so many events; its indexes are dropped and made again, which is quicker than keeping them."""
    await (await Database.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute(_FILL, (events,))
        for _, sql in indexes:
            connection.execute(sql)
    connection.close()


async def _open_and_ask(path: Path, events: int) -> float:
    """Seconds to open the log and have a page of the query."""
    until = START + events * SPACING * 0.7
    query = EventQuery(type="benchmark.type-7", since=until - SPAN, until=until)
    started = time.perf_counter()
    database = await Database.open(path)
    log = await SQLiteLog.open(database, SystemClock())
    found, total = await log.query(query, 0, 50)
    elapsed = time.perf_counter() - started
    await database.close()
    assert len(found) == 50
    assert total == int(SPAN / SPACING / TYPES)
    return elapsed
