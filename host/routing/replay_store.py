"""Replays as rows: which stretch of the log one plugin gets again, how it goes, and its end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from host.routing import log_progress
from host.routing.errors import ReplayNotFoundError, TooManyReplaysError
from host.storage.database import Database
from plugin_sdk.clock import Clock

KEPT_REPLAYS: Final = 1000
"""Replays that are remembered after their end."""
MAX_RUNNING: Final = 8
"""Replays of one plugin that run at once: each holds the log and follows it with consumers of its own."""

_SELECT: Final = "SELECT * FROM replays"
_INSERT: Final = (
    "INSERT INTO replays (plugin, subscription, first, last, since, until, filters, state, actor, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, 'running', ?, ?)"
)
_END: Final = "UPDATE replays SET state = ?, ended_at = ? WHERE id = ? AND state = 'running'"
_CANCEL_ALL: Final = "UPDATE replays SET state = 'cancelled', ended_at = ? WHERE plugin = ? AND state = 'running'"
_COUNT_RUNNING: Final = "SELECT count(*) FROM replays WHERE plugin = ? AND state = 'running'"
_CURSORS: Final = "SELECT subscription FROM cursors WHERE subscription GLOB ?"
_TRIM: Final = (
    "DELETE FROM replays WHERE state <> 'running' AND id <= (SELECT id FROM replays ORDER BY id DESC LIMIT 1 OFFSET ?)"
)
_STRETCH: Final = "SELECT min(sequence), max(sequence) FROM events WHERE appended_at >= ? AND appended_at < ?"


class ReplayState(Enum):
    """Whether a replay still delivers."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """One replay: the events with sequences `first` to `last` that fit `filters`, to one plugin.

    `subscription` is the name of the only one that gets them, None for all. Instants are seconds since the epoch;
    the counts are of outcomes of attempts.
    """

    id: int
    plugin: str
    subscription: str | None
    first: int
    last: int
    since: float | None
    until: float | None
    filters: tuple[Mapping[str, Any], ...]
    state: ReplayState
    actor: str
    created_at: float
    ended_at: float | None
    delivered: int
    dropped: int
    dead_lettered: int
    retried: int


class ReplayStore:
    """Keeps replays."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def stretch(self, since: float, until: float) -> tuple[int, int] | None:
        """The first and the last sequence that was appended in a time; None where there is none."""
        limits = (int(since * 1_000_000), int(until * 1_000_000))
        first, last = (await self._database.read(_STRETCH, limits))[0]
        return None if first is None else (int(first), int(last))

    async def add(
        self,
        plugin: str,
        subscription: str | None,
        stretch: tuple[int, int],
        times: tuple[float | None, float | None],
        filters: Sequence[Mapping[str, Any]],
        *,
        actor: str,
    ) -> ReplayRecord:
        """Begin a replay; from here on its end is waited for, over restarts too.

        Raises:
            TooManyReplaysError: as many of the plugin run already as may.
        """
        row = (plugin, subscription, *stretch, *times, json.dumps(list(filters)), actor)
        now = self._clock.now().timestamp()

        def write(connection: sqlite3.Connection) -> ReplayRecord:
            if connection.execute(_COUNT_RUNNING, (plugin,)).fetchone()[0] >= MAX_RUNNING:
                raise TooManyReplaysError(plugin, MAX_RUNNING)
            found = connection.execute(_INSERT, (*row, now)).lastrowid
            connection.execute(_TRIM, (KEPT_REPLAYS,))
            return _record(connection.execute(_SELECT + " WHERE id = ?", (found,)).fetchone())

        return await self._database.write(write)

    async def get(self, replay: int) -> ReplayRecord:
        """One replay.

        Raises:
            ReplayNotFoundError: there is none of that id.
        """
        rows = await self._database.read(_SELECT + " WHERE id = ?", (replay,))
        if not rows:
            raise ReplayNotFoundError(replay)
        return _record(rows[0])

    async def all(self, plugin: str | None, offset: int, limit: int) -> tuple[list[ReplayRecord], int]:
        """A page of replays, the newest first, and how many there are."""
        where, values = ("", ()) if plugin is None else (" WHERE plugin = ?", (plugin,))
        counted = await self._database.read(f"SELECT count(*) FROM replays{where}", values)
        rows = await self._database.read(
            f"{_SELECT}{where} ORDER BY id DESC LIMIT ? OFFSET ?", (*values, limit, offset)
        )
        return [_record(row) for row in rows], int(counted[0][0])

    async def running(self, plugin: str) -> list[ReplayRecord]:
        """The replays of a plugin that have not ended, the oldest first."""
        rows = await self._database.read(f"{_SELECT} WHERE plugin = ? AND state = 'running' ORDER BY id", (plugin,))
        return [_record(row) for row in rows]

    async def end(self, replay: int, state: ReplayState) -> None:
        """End a replay that runs, and let go of its place in the log; one that has ended stays as it is."""
        now = self._clock.now().timestamp()

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_END, (state.value, now, replay))
            for (subscription,) in connection.execute(_CURSORS, (f"*#{replay}",)).fetchall():
                log_progress.drop_subscription(connection, subscription)

        await self._database.write(write)

    async def cancel_all(self, plugin: str) -> None:
        """End every replay of a plugin that is removed."""
        now = self._clock.now().timestamp()
        await self._database.write(lambda connection: connection.execute(_CANCEL_ALL, (now, plugin)).rowcount)


def _record(row: sqlite3.Row) -> ReplayRecord:
    found = dict(row)
    return ReplayRecord(
        **{**found, "filters": tuple(json.loads(found["filters"])), "state": ReplayState(found["state"])}
    )
