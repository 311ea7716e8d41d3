"""Moving the write-ahead log into the database beside the writing: no commit pauses for what came before it.

SQLite lets one connection move pages while another writes. What it moves is behind the writer, so the log of a busy
host is never empty; but nearly all of it has been moved whenever it is to begin anew, and that takes a moment then.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Final

EVERY_COMMITS: Final = 128
"""Commits between two times that pages are moved."""
ANEW_PAGES: Final = 8_000
"""Pages of the write-ahead log (4 KiB each) from which it is to begin anew."""


class Checkpoints:
    """Moves pages in a thread of its own, whenever it is asked to.

    Args:
        connect: Opens the connection that moves them; called in that thread.
        tell: Told of what the disk refused, in that thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], tell: Callable[[str], None]) -> None:
        self._connect = connect
        self._tell = tell
        self._asked = threading.Event()
        self._ending = False
        self._pages = 0
        self._thread = threading.Thread(target=self._main, name="checkpoints", daemon=True)
        self._thread.start()

    @property
    def large(self) -> bool:
        """Whether the log was found to be so large that it is to begin anew; asked once, it is small again."""
        found, self._pages = self._pages > ANEW_PAGES, 0
        return found

    def ask(self) -> None:
        """Have pages moved, unless they are being moved."""
        self._asked.set()

    def close(self) -> None:
        """End the thread, and wait for it."""
        self._ending = True
        self._asked.set()
        self._thread.join()

    def _main(self) -> None:
        try:
            with contextlib.closing(self._connect()) as connection:
                while True:
                    self._asked.wait()
                    self._asked.clear()
                    if self._ending:
                        return
                    self._move(connection)
        except sqlite3.Error as error:
            # Without it the log grows until its writer moves it, which costs time and nothing else.
            self._tell(f"no checkpoints beside the writing: {error}")

    def _move(self, connection: sqlite3.Connection) -> None:
        try:
            _, self._pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self._tell(f"checkpoint failed: {error}")
