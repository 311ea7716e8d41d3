"""What host and core say to each other, as MessagePack: frames with a whole batch each, and their answers.

Everything here is a value with a version: it is what a second host will be sent, too. A frame is executed in one
transaction, together with those that came while the one before was written.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

VERSION: Final = 1
"""Of all that is said here; the two halves are always of one release, and make sure of it."""
MAX_FRAME: Final = 128 * 2**20
"""Bytes of one frame; a longer one is no frame. What the host puts together is smaller, but for single large items."""
HEAD: Final = 4
"""Bytes that say how long a frame is, big-endian."""
ROW: Final = 5
"""Values of an event's row in a frame: source, id, type, subject, body."""
LINE: Final = 9
"""Values of a line of the attempt log in a frame."""
MAX_REFUSAL: Final = 500
"""Characters of why one item was refused."""


class FrameError(Exception):
    """Something came that is no frame of this protocol: whoever reads it can only end."""


class Retried(msgspec.Struct, frozen=True, array_like=True):
    """A delivery that is to be tried again: its row of the retry table; `entry` is the attempt as JSON."""

    subscription: str
    sequence: int
    attempt: int
    due_at: float | None
    reason: str
    entry: str


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """A delivery that was given up on. `home` is where its letter is filed, `entry` the last attempt as JSON.

    `noted` says that the attempts before stand beside a row of the retry table.
    """

    plugin: str
    subscription: str
    home: str
    sequence: int
    event_id: str
    event_type: str
    body: bytes
    reason: str
    traceback: str
    attempts: int
    at: float
    entry: str
    noted: bool


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """Outcomes, and the cursors that move with them.

    Attributes:
        lines: Of the attempt log, `LINE` values each.
        cursors: Where subscriptions stand now.
        ahead: What is settled above them.
        decided: Subscription and sequence of what needs no row in the retry table any more.
        retried: What is to be tried again.
        letters: What was given up on.
        replayed: For each replay its id and how many were delivered, dropped, given up on, retried.
    """

    lines: list[str | int | float]
    cursors: dict[str, int]
    ahead: dict[str, list[int]]
    decided: list[tuple[str, int]] = []
    retried: list[Retried] = []
    letters: list[Letter] = []
    replayed: list[tuple[int, int, int, int, int]] = []


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """Something by name that belongs into one transaction, with events that it may append (`ROW` values each)."""

    name: str
    arguments: msgspec.Raw
    rows: list[Any] = []


class Open(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Open the database. `life` tells this host's frames from those of every other."""

    version: int
    life: bytes


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A batch: rows of events (`ROW` values each), outcomes, operations. `stamp` is in microseconds since the epoch."""

    version: int
    number: int
    stamp: int
    rows: list[Any]
    settled: list[Settled]
    operations: list[Operation]


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One item was not written: for its own sake, or the disk's."""

    message: str
    disk: bool = False


class Done(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """One item is durable. `fresh` has the events that it appended: which of its rows, and their sequences."""

    value: Any = None
    fresh: list[tuple[int, int]] = []


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What became of a frame.

    Attributes:
        number: The frame's.
        failed: Why nothing of it was written, if so.
        first: The sequence of its first row; each of the others has one more.
        twins: Rows that were not appended because the log has them: which, where, and whether it is the same event.
        refused: Rows that were refused.
        settled: A result for each of its outcomes.
        operations: A result for each of its operations.
        shares: What the appended events of plugins weigh.
    """

    number: int
    failed: str = ""
    first: int = 0
    twins: list[tuple[int, int, bool]] = []
    refused: list[tuple[int, Refusal]] = []
    settled: list[Done | Refusal] = []
    operations: list[Done | Refusal] = []
    shares: dict[str, int] = {}


class Locked(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The process has the log to itself, and waits to be told to open it."""

    pid: int


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The database is open; `answers` are of the last transaction, where that was this host's."""

    answers: msgspec.Raw


class Answers(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The answers of one transaction (a list of `Answer`), and what there is to be logged."""

    answers: msgspec.Raw
    notes: list[str] = []


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The last words of a core. `busy` says that another process has the log."""

    reason: str
    busy: bool = False


Said = Locked | Opened | Answers | Ended
encode: Final = msgspec.msgpack.Encoder().encode
read_order: Final = msgspec.msgpack.Decoder(Open | Frame).decode
read_said: Final = msgspec.msgpack.Decoder(Locked | Opened | Answers | Ended).decode
_read_answers: Final = msgspec.msgpack.Decoder(list[Answer]).decode
NO_ANSWERS: Final = encode([])


def order(payload: bytes | memoryview) -> Open | Frame:
    """What the host wants.

    Raises:
        FrameError: it is malformed, or of another version.
    """
    try:
        found: Open | Frame = read_order(payload)
    except msgspec.MsgspecError as error:
        raise FrameError(f"a frame is malformed: {error}") from error
    if found.version != VERSION:
        raise FrameError(f"a frame is of version {found.version}, and not {VERSION}")
    return found


def answers_of(payload: bytes | msgspec.Raw) -> list[Answer]:
    """The answers of a transaction; none of none."""
    found: list[Answer] = _read_answers(payload)
    return found


class Reader:
    """Cuts frames out of a stream of bytes."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._begun += data

    def next(self) -> bytes | None:
        """The next frame, or None while it is not whole.

        Raises:
            FrameError: it says that it is longer than a frame may be.
        """
        begun = self._begun
        if len(begun) < HEAD:
            return None
        size = int.from_bytes(begun[:HEAD], "big")
        if size > MAX_FRAME:
            raise FrameError(f"a frame says that it has {size} bytes, and may have {MAX_FRAME}")
        if len(begun) < HEAD + size:
            return None
        frame = bytes(memoryview(begun)[HEAD : HEAD + size])
        del begun[: HEAD + size]
        return frame


def framed(payload: bytes) -> bytes:
    """A payload behind its length."""
    return len(payload).to_bytes(HEAD, "big") + payload
