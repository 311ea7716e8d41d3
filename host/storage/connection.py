"""Connections of the one SQLite file: what every one of them is opened with. Imports next to nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

LOCK_SUFFIX: Final = ".writer"
"""Behind the name of the database: the file that the process that writes its log has locked while it lives."""
PAGE_CACHE_KIB: Final = 16384
CHECKPOINT_PAGES: Final = 8000
"""Pages of the write-ahead log (4 KiB each) at which a commit moves them into the database itself.

More would save writes where events touch many pages, and make the commit that moves them pause longer.
"""
MAX_WAL_PAGES: Final = 32_768
"""Pages of the write-ahead log (128 MiB) above which a writer waits for readers and empties it.

SQLite's own checkpoints never wait, so readers that overlap without a gap would let it grow for ever.
"""

PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # an acknowledged event survives power loss, not only a crash
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",
    f"PRAGMA cache_size = -{PAGE_CACHE_KIB}",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    "PRAGMA journal_size_limit = 67108864",  # a log that once grew gives its disk back
    "PRAGMA temp_store = MEMORY",
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that writes, with transactions that are begun and ended by hand.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    connection.row_factory = sqlite3.Row
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection


def checkpoint(connection: sqlite3.Connection, *, may_wait: bool) -> None:
    """Move the write-ahead log into the database; where `may_wait` and it has grown too large, wait for readers.

    Whoever waits holds the file as a writer does.

    Raises:
        sqlite3.Error: the disk refuses.
    """
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if may_wait and pages > MAX_WAL_PAGES:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
