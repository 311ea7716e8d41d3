"""The core of the log's writer: executes frames on its connection, each batch in one transaction.

What the disk refuses, it refuses for all. What one item alone is refused for, such as a value that the database does
not take, costs the others nothing: they are written again without it.

In each transaction the core writes down its own answers. So one that is started anew for the same host says what became
of the frames that were sent and not answered, and only those that left no trace are sent again: nothing is done twice,
whether doing it twice would show or not.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from host.storage.connection import checkpoint
from host.storage.errors import is_damage, is_machine_failure
from host.storage.log_writer import appending, firings, shares
from host.storage.log_writer.frames import (
    MAX_REFUSAL,
    NO_ANSWERS,
    ROW,
    Answer,
    Done,
    Frame,
    Operation,
    Refusal,
    encode,
)
from host.storage.log_writer.settling import Attempt, CursorWanted, Progress
from host.storage.transactions import is_of_the_disk, savepoint, transaction

_LAST: Final = "SELECT life, answers FROM log_frames"
_NOTE: Final = "UPDATE log_frames SET life = ?, answers = ?"
_UNDONE: Final = Refusal("nothing was kept", disk=True)

_read_attempts: Final = msgspec.msgpack.Decoder(list[Attempt]).decode
_read_cursor: Final = msgspec.msgpack.Decoder(CursorWanted).decode
_read_moves: Final = msgspec.msgpack.Decoder(firings.Moves).decode
_read_by_hand: Final = msgspec.msgpack.Decoder(firings.ByHand).decode


class _Draft:
    """The answer to a frame while it is being executed."""

    def __init__(self, frame: Frame, first: int) -> None:
        self.frame = frame
        self.rows = len(frame.rows) // ROW
        self.first = first
        self.twins: list[tuple[int, int, bool]] = []
        self.refused: dict[int, Refusal] = {}
        self.settled: list[Done | Refusal] = [_UNDONE] * len(frame.settled)
        self.operations: list[Done | Refusal] = [_UNDONE] * len(frame.operations)
        self.shares: Counter[str] = Counter()

    def answer(self) -> Answer:
        return Answer(
            self.frame.number,
            "",
            self.first,
            self.twins,
            sorted(self.refused.items()),
            self.settled,
            self.operations,
            dict(self.shares),
        )


class Core:
    """Executes frames.

    Args:
        connection: Its own; nobody else writes with it.
        life: Of the host whose frames it gets.

    Attributes:
        notes: What is to be logged of what it did; whoever reads them empties the list.
    """

    def __init__(self, connection: sqlite3.Connection, life: bytes) -> None:
        self._connection = connection
        self._life = life
        self._next = appending.head(connection) + 1
        self._progress = Progress(connection)
        self._operations: dict[str, Callable[[Operation, Callable[[int], firings.Place]], Any]] = {
            "begin": lambda asked, _: self._progress.begin(_read_attempts(asked.arguments)),
            "cursor": lambda asked, _: self._progress.cursor(_read_cursor(asked.arguments)),
            "fire": lambda asked, place: firings.move(self._connection, _read_moves(asked.arguments), place),
            "fire by hand": lambda asked, place: firings.fire_by_hand(
                self._connection, _read_by_hand(asked.arguments), place
            ),
        }
        self.notes: list[str] = []

    def last_answers(self) -> bytes:
        """The answers of the last transaction, if its frames were of this life."""
        row = self._connection.execute(_LAST).fetchone()
        return bytes(row[1]) if row is not None and bytes(row[0]) == self._life else NO_ANSWERS

    def write(self, frames: Sequence[Frame]) -> bytes:
        """Execute frames in their order, in one transaction wherever that can be; the answers, encoded.

        They are durable when it returns.
        """
        failure: Exception | None = None
        for apart in (self._together, self._by_item, self._one_by_one):
            before = self._next
            try:
                return apart(frames)
            except Exception as error:  # noqa: BLE001 - whoever waits hears of it, and the core goes on
                self._next = before
                self._progress.rolled_back()
                failure = error
                if is_of_the_disk(error):
                    break
                self.notes.append(f"batch to be written apart: {_said(error)}")
        self.notes.append(f"batch not written: {_said(failure)}")
        return encode([Answer(frame.number, _said(failure)) for frame in frames])

    def taken_notes(self) -> list[str]:
        """What is to be told since the last time."""
        taken = self.notes[:]
        del self.notes[: len(taken)]  # another thread may have added some meanwhile
        return taken

    def checkpoint(self, *, may_wait: bool = False) -> None:
        """Move the write-ahead log into the database, as `connection.checkpoint` does."""
        try:
            checkpoint(self._connection, may_wait=may_wait)
        except sqlite3.Error as error:
            self.notes.append(f"checkpoint failed: {_said(error)}")

    # -- three ways to write a batch

    def _together(self, frames: Sequence[Frame]) -> bytes:
        """Everything in one transaction: what ordinary batches are written by."""
        drafts = [self._draft(frame) for frame in frames]
        with transaction(self._connection):
            for draft in drafts:
                if draft.rows:
                    self._append(draft, 0, draft.frame.rows)
                for execute in self._others(draft):
                    execute()
                if draft.shares:
                    shares.add(self._connection, draft.shares)
            answers = self._note(drafts)
        self._progress.committed()
        return answers

    def _by_item(self, frames: Sequence[Frame]) -> bytes:
        """As `_together`, but item by item: the answer of one that is refused is why."""
        drafts = [self._draft(frame) for frame in frames]
        with transaction(self._connection):
            for draft in drafts:
                for slot, index, execute in self._items(draft):
                    before, weights = self._next, draft.shares.copy()
                    try:
                        with savepoint(self._connection):
                            execute()
                    except Exception as error:  # the item's own answer, whatever it is
                        if is_machine_failure(error):
                            raise
                        self._next, draft.shares = before, weights
                        self._progress.rolled_back()
                        slot[index] = Refusal(_said(error))
                if draft.shares:
                    shares.add(self._connection, draft.shares)
            answers = self._note(drafts)
        self._progress.committed()
        return answers

    def _one_by_one(self, frames: Sequence[Frame]) -> bytes:
        """Each item in a transaction of its own: where one has met a damaged page, SQLite takes nothing more in it.

        What a crash leaves unwritten of it was noted as refused by the disk: it may be sent again.
        """
        drafts = [self._draft(frame) for frame in frames]
        for draft in drafts:
            draft.refused = dict.fromkeys(range(draft.rows), _UNDONE)
        for draft in drafts:
            for slot, index, execute in self._items(draft):
                before, weights, twins = self._next, draft.shares.copy(), len(draft.twins)
                if slot is draft.refused:
                    del draft.refused[index]
                try:
                    with transaction(self._connection):
                        execute()
                        if added := draft.shares - weights:
                            shares.add(self._connection, added)
                        self._note(drafts)
                except Exception as error:  # noqa: BLE001 - the item's own answer, whatever it is
                    self._next, draft.shares = before, weights
                    del draft.twins[twins:]
                    self._progress.rolled_back()
                    slot[index] = Refusal(_said(error), disk=not is_damage(error) and is_machine_failure(error))
                else:
                    self._progress.committed()
        return encode([draft.answer() for draft in drafts])

    # -- items

    def _draft(self, frame: Frame) -> _Draft:
        draft = _Draft(frame, self._next)
        self._next += draft.rows
        return draft

    def _items(self, draft: _Draft) -> Iterator[tuple[Any, int, Callable[[], None]]]:
        """Every item of a frame: where its answer stands, and how it is executed."""
        for index in range(draft.rows):
            row = draft.frame.rows[index * ROW : (index + 1) * ROW]
            yield draft.refused, index, partial(self._append, draft, index, row)
        slots = (draft.settled, draft.operations)
        places = [(slot, index) for slot in slots for index in range(len(slot))]
        for (slot, index), execute in zip(places, self._others(draft), strict=True):
            yield slot, index, execute

    def _others(self, draft: _Draft) -> Iterator[Callable[[], None]]:
        """How the outcomes of a frame, and then its operations, are executed."""
        for index, settled in enumerate(draft.frame.settled):

            def settle(index: int = index, settled: Any = settled) -> None:
                draft.settled[index] = Done(self._progress.settle(settled))

            yield settle
        for index, asked in enumerate(draft.frame.operations):

            def operate(index: int = index, asked: Operation = asked) -> None:
                draft.operations[index] = self._operate(draft, asked)

            yield operate

    def _append(self, draft: _Draft, index: int, rows: Sequence[Any]) -> None:
        """Append rows of a frame, the first of which is its row `index`."""
        twins = appending.append(self._connection, rows, draft.first + index, draft.frame.stamp)
        draft.twins += [(index + at, sequence, same) for at, sequence, same in twins]
        _weigh(rows, {at for at, _, _ in twins}, draft.shares)

    def _operate(self, draft: _Draft, asked: Operation) -> Done:
        fresh: list[tuple[int, int]] = []

        def place(index: int) -> firings.Place:
            row = asked.rows[index * ROW : (index + 1) * ROW]
            sequence = self._next
            self._next += 1
            for _, at, same in appending.append(self._connection, row, sequence, draft.frame.stamp):
                return at, False if same else None
            fresh.append((index, sequence))
            _weigh(row, (), draft.shares)
            return sequence, True

        operation = self._operations.get(asked.name)
        if operation is None:
            raise LookupError(f"there is no operation {asked.name!r}")
        value = operation(asked, place)
        return Done(value, fresh)

    def _note(self, drafts: Sequence[_Draft]) -> bytes:
        """Write the answers down, with what they are about."""
        answers = encode([draft.answer() for draft in drafts])
        self._connection.execute(_NOTE, (self._life, answers))
        return answers


def _weigh(rows: Sequence[Any], besides: Any, into: Counter[str]) -> None:
    """Add up what the rows of plugins weigh."""
    for index, at in enumerate(range(0, len(rows), ROW)):
        source = rows[at]
        if source.startswith(shares.PREFIXES) and index not in besides:
            into[shares.owner(source) or ""] += shares.weight_of(*rows[at + 1 : at + ROW])


def _said(error: Exception | None) -> str:
    named = str(error) if isinstance(error, sqlite3.Error) else f"{type(error).__name__}: {error}"
    return named.encode(errors="replace").decode()[:MAX_REFUSAL]
