"""The group-commit writer: one thread, one connection, one transaction for everything that waits.

While one commit runs the next batch collects, so concurrent writers share a transaction and an fsync, and
nobody waits for a timer. The loop hears of a whole batch in one wake-up.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from host.errors import BusbarError
from host.storage.errors import StorageBusyError, StorageFailedError

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PENDING: Final = 16384
"""Items that may wait for the writer; one more is refused with `storage_busy`."""
IDLE_SECONDS: Final = 1.0
"""How long the writer sits idle before it moves the write-ahead log into the database."""

_log = structlog.get_logger(__name__)


class CommitHook(Protocol):
    """Something that collects rows while a transaction runs and publishes them once it is durable."""

    def mark(self) -> int:
        """In the writer's thread: a point to rewind to."""
        ...

    def rewind(self, mark: int) -> None:
        """In the writer's thread: what was collected since `mark` was rolled back."""
        ...

    def take(self) -> Any:
        """In the writer's thread, after the commit: what was collected; collecting starts anew."""
        ...

    def committed(self, taken: Any) -> None:
        """On the loop, before anyone who waits for the batch goes on."""
        ...


class Channel(Generic[Item, Result]):
    """A way to the writer for many small writes of one kind; the items of a batch are applied together."""

    def __init__(
        self, writer: Writer, apply: Callable[[sqlite3.Connection, list[Item]], Sequence[Result | Exception]]
    ) -> None:
        self._writer = writer
        self.apply = apply

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Queue an item; the future has its result once it is durable.

        Raises:
            StorageBusyError: too much waits already.
        """
        return self._writer.put(self, item)


@dataclass(slots=True)
class _Batch:
    """Everything that goes into one transaction, in the order in which the kinds first came."""

    channels: dict[Channel[Any, Any], tuple[list[Any], list[asyncio.Future[Any]]]] = field(default_factory=dict)
    size: int = 0

    def answers(self) -> list[asyncio.Future[Any]]:
        return [answer for _, answers in self.channels.values() for answer in answers]


class Writer:
    """Owns the only connection that writes.

    Args:
        connect: Opens the connection; called in the writer's own thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._pending = _Batch()
        self._changed = threading.Condition()
        self._closing = False
        self._hooks: list[CommitHook] = []
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name="writer", daemon=True)
        self._operations: Channel[Callable[[sqlite3.Connection], Any], Any] = Channel(self, self._run_each)

    async def start(self) -> None:
        """Open the connection and take work."""
        self._thread.start()
        await self._opened

    def hook(self, hook: CommitHook) -> None:
        """Have `hook` see every transaction from now on."""
        self._hooks.append(hook)

    def channel(
        self, apply: Callable[[sqlite3.Connection, list[Item]], Sequence[Result | Exception]]
    ) -> Channel[Item, Result]:
        """A way to the writer for items that are applied together.

        `apply` runs in the writer's thread and answers one result for each item, an exception where one
        item alone is refused; if it raises, the whole batch is rolled back.
        """
        return Channel(self, apply)

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation in the next transaction; durable when it returns.

        It shares the transaction with others, and is rolled back alone where it raises.

        Raises:
            StorageBusyError: too much waits already.
            StorageFailedError: the database could not be written.
            BaseException: what the operation raises.
        """
        answer: T = await self._operations.submit(operation)
        return answer

    def put(self, channel: Channel[Any, Any], item: Any) -> asyncio.Future[Any]:
        """Queue an item of a channel."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        with self._changed:
            pending = self._pending
            if pending.size >= MAX_PENDING or self._closing:
                raise StorageBusyError("the disk does not keep up; try again in a moment", retry_after=1.0)
            found = pending.channels.get(channel)
            if found is None:
                found = pending.channels[channel] = ([], [])
            found[0].append(item)
            found[1].append(answer)
            pending.size += 1
            if pending.size == 1:
                self._changed.notify()
        return answer

    async def close(self) -> None:
        """Write what waits, then close the connection."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await self._ended

    # -- in the writer's thread

    def _main(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the start
            self._loop.call_soon_threadsafe(self._opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        while (batch := self._next(connection)) is not None:
            self._write(connection, batch)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        except sqlite3.Error as error:
            _log.warning("database_not_closed_cleanly", error=str(error))
        self._loop.call_soon_threadsafe(self._ended.set_result, None)

    def _next(self, connection: sqlite3.Connection) -> _Batch | None:
        idle = False
        while True:
            with self._changed:
                if not self._pending.size and not self._closing:
                    idle = not self._changed.wait(None if idle else IDLE_SECONDS)
                if self._pending.size:
                    batch, self._pending = self._pending, _Batch()
                    return batch
                if self._closing:
                    return None
            if idle:
                self._checkpoint(connection)

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> None:
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            _log.warning("checkpoint_failed", error=str(error))

    def _write(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        marks = [hook.mark() for hook in self._hooks]
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [channel.apply(connection, items) for channel, (items, _) in batch.channels.items()]
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - every waiter hears of it, and the writer goes on
            self._undo(connection, marks)
            failed = StorageFailedError(
                f"the database could not be written ({error}): is the disk full? Nothing was kept; try again",
                retry_after=1.0,
            )
            _log.error("batch_not_written", error=str(error), items=batch.size, exc_info=not _expected(error))
            self._loop.call_soon_threadsafe(_fail_all, batch.answers(), failed)
            return
        taken = [hook.take() for hook in self._hooks]
        self._loop.call_soon_threadsafe(self._publish, batch, results, taken)

    def _undo(self, connection: sqlite3.Connection, marks: list[int]) -> None:
        for hook, mark in zip(self._hooks, marks, strict=True):
            hook.rewind(mark)
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            _log.error("rollback_failed", error=str(error))

    def _run_each(
        self, connection: sqlite3.Connection, operations: list[Callable[[sqlite3.Connection], Any]]
    ) -> list[Any]:
        results: list[Any] = []
        for operation in operations:
            marks = [hook.mark() for hook in self._hooks]
            connection.execute("SAVEPOINT operation")
            try:
                results.append(operation(connection))
            except Exception as error:
                if _expected(error) and isinstance(error, sqlite3.OperationalError):
                    raise  # the disk's refusal, not the operation's: everything of this batch fails
                connection.execute("ROLLBACK TO operation")
                for hook, mark in zip(self._hooks, marks, strict=True):
                    hook.rewind(mark)
                results.append(error)
            connection.execute("RELEASE operation")
        return results

    # -- on the loop

    def _publish(self, batch: _Batch, results: list[Sequence[Any]], taken: list[Any]) -> None:
        for hook, rows in zip(self._hooks, taken, strict=True):
            hook.committed(rows)
        for (_, answers), found in zip(batch.channels.values(), results, strict=True):
            for answer, result in zip(answers, found, strict=True):
                if answer.done():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)


def _fail_all(answers: list[asyncio.Future[Any]], error: BusbarError) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)


def _expected(error: Exception) -> bool:
    """Whether it is the machine's failure (disk full, I/O) rather than a mistake of ours in the SQL."""
    if not isinstance(error, sqlite3.Error):
        return False
    name = getattr(error, "sqlite_errorname", "") or ""
    return name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY"))
