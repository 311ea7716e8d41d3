"""What goes into one frame on the host's side: items, the futures of those who wait for them, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from host.storage.errors import StorageError, StorageFailedError
from host.storage.log_writer.frames import Answer, Refusal, Settled
from host.storage.transactions import not_written, row_refused

FRAME_ITEMS: Final = 2048
FRAME_BYTES: Final = 2**20
"""Bounds of one frame; a single item may weigh more."""


@dataclass(slots=True)
class Batch:
    """What goes into one frame: items of three kinds, each with the future of whoever waits for it."""

    events: list[Any] = field(default_factory=list)
    of_events: list[asyncio.Future[Any]] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    of_settled: list[asyncio.Future[Any]] = field(default_factory=list)
    operations: list[tuple[str, Any, Sequence[Any]]] = field(default_factory=list)
    of_operations: list[asyncio.Future[Any]] = field(default_factory=list)
    size: int = 0
    weight: int = 0

    @property
    def full(self) -> bool:
        """Whether the next item goes into another frame."""
        return self.size >= FRAME_ITEMS or self.weight >= FRAME_BYTES

    @property
    def waiters(self) -> list[asyncio.Future[Any]]:
        """Everyone who waits for something of it."""
        return [*self.of_events, *self.of_settled, *self.of_operations]


@dataclass(slots=True)
class Flight:
    """A frame that was sent and is not answered."""

    payload: bytes
    batch: Batch
    stamp: int
    sendings: int = 1


def alone(name: str, item: Any) -> Batch:
    """One item of a kind, by the name of the attribute that has such items."""
    batch = Batch()
    getattr(batch, name).append(item)
    return batch


def resolve(batch: Batch, answer: Answer, events: Sequence[Any]) -> None:
    """Answer everyone who waits for a frame."""
    if answer.failed:
        refuse(batch.waiters, not_written(answer.failed))
        return
    for waiter, result in zip(batch.of_events, events, strict=True):
        if waiter.done():
            continue
        if isinstance(result, Exception):
            waiter.set_exception(result)
        else:
            waiter.set_result(result)
    for waiters, results in ((batch.of_settled, answer.settled), (batch.of_operations, answer.operations)):
        for waiter, done in zip(waiters, results, strict=True):
            if waiter.done():
                continue
            if isinstance(done, Refusal):
                waiter.set_exception(refused(done))
            else:
                waiter.set_result(done.value)


def refused(refusal: Refusal) -> StorageError:
    """Why one item was not written."""
    return not_written(refusal.message) if refusal.disk else row_refused(refusal.message)


def refuse(waiters: Sequence[asyncio.Future[Any]], error: StorageError) -> None:
    """Answer those who still wait with an error."""
    for waiter in waiters:
        if not waiter.done():
            # One for each: a raised exception gathers a traceback that is its waiter's own.
            waiter.set_exception(type(error)(error.message, retry_after=error.retry_after))


def closed() -> StorageFailedError:
    """That nothing is taken any more."""
    return StorageFailedError("the database is closed because the host is stopping: try again shortly")


def unknown(reason: str) -> StorageFailedError:
    """That something was sent, and never answered."""
    return StorageFailedError(
        f"the log's writer ended before it said whether this is durable ({reason}): send it again, it is kept once",
        retry_after=5.0,
    )
