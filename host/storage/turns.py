"""Whose turn it is to write the file: the log's writer, or that of everything else.

SQLite has one writer at a time, and whoever else wants to write sleeps and looks again. Here nobody has to: turns are
handed over on the host's loop, so that no transaction ever meets a lock, and nobody is passed over. Who waits has its
turn as soon as what was begun before is durable; what each does with one turn is bounded by itself.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Party(Protocol):
    """Somebody who writes the file."""

    def go(self) -> None:
        """It is its turn: it writes what it has, and gives the turn back when that is durable, or at once."""
        ...


class Turns:
    """Hands turns over; for the loop alone."""

    def __init__(self) -> None:
        self._holder: Party | None = None
        self._fresh = False  # the holder has not begun to use its turn
        self._waiting: deque[Party] = deque()

    def take(self, party: Party) -> bool:
        """Whether the party may begin to write now. Where it may not, its `go` is called when it may.

        Whoever is given the turn may begin once, whoever else waits, and go on as long as nobody does.
        """
        if self._holder is None or (self._holder is party and (self._fresh or not self._waiting)):
            self._holder = party
            self._fresh = False
            return True
        if party not in self._waiting:
            self._waiting.append(party)
        return False

    def give(self, party: Party) -> None:
        """End the turn of the party, if it has it: nothing of what it wrote is under way any more."""
        if self._holder is not party:
            return
        self._holder = self._waiting.popleft() if self._waiting else None
        if self._holder is not None:
            self._fresh = True
            self._holder.go()
