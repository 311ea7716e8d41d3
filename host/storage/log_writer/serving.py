"""Serving a core: frames in, answers out, one transaction for all that waits. The same in a process and in a thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from host.storage.log_writer.checkpoints import EVERY_COMMITS, Checkpoints
from host.storage.log_writer.core import Core
from host.storage.log_writer.frames import Answers, Frame, FrameError, Open, Opened, Said, order

IDLE_SECONDS: Final = 1.0
"""How long a core sits idle before it moves the write-ahead log into the database."""
MERGED_BYTES: Final = 4 * 2**20
"""Bytes of frames above which no further one is taken into a transaction."""


class Inbox(Protocol):
    """Where frames come in."""

    def wait(self, seconds: float | None) -> bool:
        """Wait for a frame, or the end; False where neither came within the seconds."""
        ...

    def take(self) -> bytes | None:
        """A frame that is there already, or None."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more, and all that came was taken."""
        ...


def serve(inbox: Inbox, say: Callable[[Said], None], connect: Callable[[], sqlite3.Connection]) -> None:
    """Open the database when told to, and execute frames until the inbox has ended.

    Raises:
        FrameError: something else than a frame came.
        sqlite3.Error: the database cannot be opened.
    """
    opening = _next(inbox, None)
    if opening is None:
        return
    if not isinstance(opening, Open):
        raise FrameError("a frame came before the database was open")
    with contextlib.closing(connect()) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        core = Core(connection, opening.life)
        with contextlib.closing(Checkpoints(connect, core.notes.append)) as checkpoints:
            say(Opened(msgspec.Raw(core.last_answers())))
            _execute(inbox, say, core, checkpoints)


def _execute(inbox: Inbox, say: Callable[[Said], None], core: Core, checkpoints: Checkpoints) -> None:
    commits = 0
    idle = True
    while True:
        if not inbox.wait(None if idle else IDLE_SECONDS):
            core.checkpoint()
            idle = True
            continue
        frames, merged = [], 0
        while merged < MERGED_BYTES and (payload := inbox.take()) is not None:
            merged += len(payload)
            frame = order(payload)
            if not isinstance(frame, Frame):
                raise FrameError("the database is open already")
            frames.append(frame)
        if frames:
            idle = False
            answers = core.write(frames)
            commits += 1
            if checkpoints.large:
                # Before it is answered: until then nobody else writes, whom a wait for readers would keep out.
                core.checkpoint(may_wait=True)
            elif commits % EVERY_COMMITS == 0:
                checkpoints.ask()
            notes = core.taken_notes()
            say(Answers(msgspec.Raw(answers), notes))
        elif inbox.ended:
            return


def _next(inbox: Inbox, seconds: float | None) -> Open | Frame | None:
    """The next order, or None at the end."""
    while inbox.wait(seconds):
        payload = inbox.take()
        if payload is not None:
            return order(payload)
        if inbox.ended:
            break
    return None
