"""Firings of a schedule that are not wanted any more, because the schedule came due again."""

from __future__ import annotations

from typing import Final

MAX_SUPERSEDED: Final = 65_536
"""Firings that are remembered as superseded; with more, those before are forgotten."""
SUPERSEDED: Final = "superseded: the schedule came due again"


class Superseded:
    """Remembers the firings that are to be dropped when their turn comes."""

    def __init__(self) -> None:
        self._sequences: set[int] = set()

    def add(self, sequence: int) -> None:
        """Have a firing dropped that waits."""
        if len(self._sequences) >= MAX_SUPERSEDED:
            self._sequences.clear()  # of firings that were settled meanwhile, and will never be asked for
        self._sequences.add(sequence)

    def take(self, sequence: int) -> bool:
        """Whether a firing is to be dropped; it is forgotten by that."""
        if sequence not in self._sequences:
            return False
        self._sequences.discard(sequence)
        return True
