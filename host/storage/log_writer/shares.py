"""What an event weighs in its plugin's share of the log, and the rows that keep the sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

OVERHEAD: Final = 400
"""Bytes that an event takes beside its body and attributes: its row, five entries of indexes, pages that are not full.
Without them a flood of small events would take several times what it is charged."""
EMITTED: Final = "/plugins/"
BROUGHT: Final = "/hooks/"
PREFIXES: Final = (EMITTED, BROUGHT)

_ADD: Final = (
    "INSERT INTO log_shares (plugin, bytes) VALUES (?, ?) "
    "ON CONFLICT (plugin) DO UPDATE SET bytes = max(0, bytes + excluded.bytes)"
)


def owner(source: str) -> str | None:
    """The plugin to whose share events of this source belong; None for all others."""
    if not source.startswith(PREFIXES):
        return None
    return source.removeprefix(EMITTED) if source[1] == "p" else source.removeprefix(BROUGHT).partition("/")[0]


def weight_of(event_id: str, event_type: str, subject: str | None, body: bytes) -> int:
    """What an event is charged: beside the body, each of these attributes stands in its row and in an index."""
    texts = len(event_id.encode()) + len(event_type.encode()) + len((subject or "").encode())
    return len(body) + 2 * texts + OVERHEAD


def add(connection: sqlite3.Connection, weights: Mapping[str, int]) -> None:
    """Write down that plugins have so much more, or less, in the log."""
    connection.executemany(_ADD, list(weights.items()))
