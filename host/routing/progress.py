"""How far one subscription has got: a cursor over deliveries that finish out of order. Pure, no loop."""

from __future__ import annotations

from collections.abc import Iterable


class Progress:
    """Tracks what was read, what is still outstanding, and what is settled above the cursor.

    The cursor (`position`) is the highest sequence such that every matched event up to it is settled.
    Events settled above it are the `ahead` ones: they are kept durably, so that a restart does not
    deliver them again although the cursor stands before them.
    """

    __slots__ = ("_ahead", "_fresh_ahead", "_outstanding", "read")

    def __init__(self, position: int, ahead: Iterable[int] = ()) -> None:
        self.read = position
        self._outstanding: dict[int, None] = {}  # in rising order, because events are taken in order
        self._ahead = set(ahead)
        self._fresh_ahead: list[int] = []

    def take_up(self, position: int, ahead: Iterable[int]) -> None:
        """Begin at a cursor, with what is settled above it."""
        self.read = position
        self._ahead = set(ahead)

    @property
    def position(self) -> int:
        """The cursor."""
        first = next(iter(self._outstanding), None)
        return self.read if first is None else first - 1

    @property
    def outstanding(self) -> int:
        """How many events are taken and not settled."""
        return len(self._outstanding)

    @property
    def ahead(self) -> int:
        """How many events are settled above the cursor, or were at the last checkpoint."""
        return len(self._ahead)

    def take(self, sequence: int) -> bool:
        """Note an event that matched; False where it was settled before a restart and must not run again."""
        self.read = max(self.read, sequence)
        if sequence in self._ahead:
            return False
        self._outstanding[sequence] = None
        return True

    def settle(self, sequence: int) -> None:
        """Note that the outcome of an event is decided; unknown sequences (retries) change nothing."""
        if sequence not in self._outstanding:
            return
        del self._outstanding[sequence]
        if sequence > self.position:
            self._ahead.add(sequence)
            self._fresh_ahead.append(sequence)

    def checkpoint(self) -> tuple[int, tuple[int, ...]]:
        """The cursor, and what was settled above it since the last checkpoint; both are to be written."""
        position = self.position
        fresh = tuple(sequence for sequence in self._fresh_ahead if sequence > position)
        self._fresh_ahead.clear()
        if self._ahead:
            self._ahead = {sequence for sequence in self._ahead if sequence > position}
        return position, fresh
