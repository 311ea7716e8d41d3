"""The audit trail: who changed or was refused what, durable before the answer goes out."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from host.errors import printable, shortened
from host.storage.database import Database
from plugin_sdk.clock import Clock

KEPT: Final = 100_000
"""Entries of changes that are kept; the oldest make room."""
KEPT_REFUSALS: Final = 20_000
"""Entries of refusals that are kept. They have room of their own: whoever is refused chooses how often, and must not
push out of the trail what was done."""
TRIMMED_EVERY: Final = 1000
"""Entries between two looks at how many there are."""
MAX_TEXT: Final = 500
"""Characters of an actor, an action, a target, and of every text inside of a detail."""
MAX_DETAIL: Final = 64 * 1024
"""Bytes of a detail as JSON, as many as a manifest may have; of a larger one only the beginning is kept, as text."""

_INSERT: Final = "INSERT INTO audit (at, actor, action, target, detail, outcome) VALUES (?, ?, ?, ?, ?, ?)"
_TRIM_CHANGES: Final = (
    "DELETE FROM audit WHERE outcome != 'refused' AND number <= "
    "(SELECT number FROM audit WHERE outcome != 'refused' ORDER BY number DESC LIMIT 1 OFFSET ?)"
)
_TRIM_REFUSALS: Final = (
    "DELETE FROM audit WHERE outcome = 'refused' AND number <= "
    "(SELECT number FROM audit WHERE outcome = 'refused' ORDER BY number DESC LIMIT 1 OFFSET ?)"
)
_PAGE: Final = "SELECT * FROM audit ORDER BY number DESC LIMIT ? OFFSET ?"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry; `at` is in seconds since the epoch."""

    number: int
    at: float
    actor: str
    action: str
    target: str
    detail: dict[str, Any]
    outcome: str


class Audit:
    """Writes and reads the trail."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def record(self, *, actor: str, action: str, target: str, detail: dict[str, Any], outcome: str) -> None:
        """Write an entry; durable when it returns. Long texts are shortened, whoever they come from."""
        row = (
            self._clock.now().timestamp(),
            _bounded(actor),
            _bounded(action),
            _bounded(printable(shortened(target, MAX_TEXT))),
            _detail(detail),
            _bounded(outcome),
        )

        def write(connection: sqlite3.Connection) -> None:
            number = connection.execute(_INSERT, row).lastrowid or 0
            if number % TRIMMED_EVERY == 0:
                connection.execute(_TRIM_CHANGES, (KEPT,))
                connection.execute(_TRIM_REFUSALS, (KEPT_REFUSALS,))

        await self._database.write(write)

    async def page(self, offset: int, limit: int) -> tuple[list[AuditEntry], int]:
        """A page of the trail, the newest first, and how many entries there are."""
        rows = await self._database.read(_PAGE, (limit, offset))
        counted = await self._database.read("SELECT count(*) FROM audit")
        entries = [AuditEntry(**{**dict(row), "detail": msgspec.json.decode(row["detail"])}) for row in rows]
        return entries, int(counted[0][0])


def _detail(detail: dict[str, Any]) -> str:
    """A detail as it is kept."""
    text = msgspec.json.encode(_bounded(detail)).decode()
    if len(text) <= MAX_DETAIL and len(text.encode()) <= MAX_DETAIL:
        return text
    return msgspec.json.encode({"shortened": shortened(text, MAX_DETAIL // 16)}).decode()


def _bounded(value: Any) -> Any:
    """A JSON value in which no text is long; one that has no place in JSON text is escaped."""
    match value:
        case str():
            text = shortened(value, MAX_TEXT)
            return text.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_bounded(str(name)): _bounded(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_bounded(one) for one in value]
        case _:
            return value
