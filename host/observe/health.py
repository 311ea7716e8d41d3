"""The health of the host: its parts, looked at one by one. Each part answers for itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from host.errors import BusbarError
from host.observe.background_parts import BackgroundParts
from host.storage.database import Database
from host.storage.log_writer.writer import LogWriter

ANSWER_SECONDS: Final = 2.0
"""How long the database may take to answer."""


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the host that was looked at."""

    name: str
    status: Literal["pass", "warn", "fail"]
    output: str = ""
    response_ms: float | None = None


class HealthChecks:
    """Looks at the parts.

    Args:
        database: Must answer; where it does not, the host fails.
        sources: Each answers the check of one part.
    """

    def __init__(self, database: Database, sources: Iterable[Callable[[], Check]]) -> None:
        self._database = database
        self._sources = tuple(sources)

    async def look(self) -> Sequence[Check]:
        """Every part, the database first."""
        return (await _database(self._database), *(source() for source in self._sources))


def background_check(parts: BackgroundParts) -> Check:
    """Whether every background part lives; without one that cannot be started again the host fails."""
    died = parts.trouble()
    said = "; ".join(f"{one.name} died ({one.reason}): {one.next_action}" for one in died)
    unfit = any(one.unfit for one in died)
    return Check("background", "fail" if unfit else "warn" if died else "pass", said)


def log_writer_check(writer: LogWriter) -> Check:
    """Whether the process that writes the log runs."""
    if writer.given_up:
        return Check("log-writer", "fail", f"it does not run, and events are refused: {writer.trouble}")
    if writer.trouble:
        return Check("log-writer", "warn", f"it is being started again: {writer.trouble}")
    again = f", started again {writer.restarts} times" if writer.restarts else ""
    return Check("log-writer", "pass", f"process {writer.pid}{again}")


async def _database(database: Database) -> Check:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await database.read("SELECT 1")
    except (TimeoutError, BusbarError, OSError) as error:
        return Check("database", "fail", f"it does not answer: {error or 'time is up'}")
    return Check("database", "pass", response_ms=round((time.perf_counter() - started) * 1000, 2))
