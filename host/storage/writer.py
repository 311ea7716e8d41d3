"""The group-commit writer: one thread, one connection, one transaction for everything that waits.

While one commit runs the next batch collects, so concurrent writers share a transaction and an fsync, and
nobody waits for a timer. Batches are collected and answered on the loop, with no lock and one wake-up for
each; the thread only ever sees whole ones.

What the disk refuses, it refuses for all. What one item alone is refused for, such as a value that the database does
not take, costs the others nothing: they are written again without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import structlog

from host.storage.errors import (
    RowRefusedError,
    StorageBusyError,
    StorageFailedError,
    is_damage,
    is_machine_failure,
)

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PENDING: Final = 16_384
"""Items that may wait for their commit; one more is refused with `storage_busy`."""
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""What the waiting items may weigh in all; one item alone may weigh more."""
IDLE_SECONDS: Final = 1.0
"""How long the writer sits idle before it moves the write-ahead log into the database."""
CHECKED_COMMITS: Final = 512
"""Commits between two looks at the size of the write-ahead log."""
MAX_WAL_PAGES: Final = 32_768
"""Pages of the write-ahead log (128 MiB) above which the writer waits for readers and empties it.

SQLite's own checkpoints never wait, so readers that overlap without a gap would let it grow for ever.
"""

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
        self._put = writer.put
        self.apply = apply

    def submit(self, item: Item, *, weight: int = 0) -> asyncio.Future[Result]:
        """Queue an item; the future has its result once it is durable. Cancelling it undoes nothing.

        Args:
            item: What `apply` gets.
            weight: Bytes that it keeps in memory while it waits.

        Raises:
            StorageBusyError: too much waits already.
            StorageFailedError: the writer is closed.
        """
        return self._put(self, item, weight)


@dataclass(slots=True, eq=False)
class _Batch:
    """Everything that goes into one transaction, in the order in which the kinds first came."""

    channels: dict[Channel[Any, Any], tuple[list[Any], list[asyncio.Future[Any]]]] = field(default_factory=dict)
    size: int = 0
    weight: int = 0


class Writer:
    """Owns the only connection that writes.

    Args:
        connect: Opens the connection; called in the writer's own thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._hooks: list[CommitHook] = []
        self._operations: Channel[Callable[[sqlite3.Connection], Any], Any] = Channel(self, self._run_each)
        self._collecting = _Batch()
        self._pending = 0
        self._pending_bytes = 0
        self._writing = False
        self._closing = False
        self._handed_over: list[_Batch] = []
        self._failure: BaseException | None = None
        self._inbox: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="writer", daemon=True)

    async def start(self) -> None:
        """Open the connection and take work; raises what `connect` raises."""
        self._thread.start()
        await self._opened

    def hook(self, hook: CommitHook) -> None:
        """Have `hook` see every transaction; called before the first write."""
        self._hooks.append(hook)

    def channel(
        self, apply: Callable[[sqlite3.Connection, list[Item]], Sequence[Result | Exception]]
    ) -> Channel[Item, Result]:
        """A way to the writer for items that are applied together.

        `apply` runs in the writer's thread and answers one result for each item, an exception where one
        item alone is refused. If it raises, it is called again with one item at a time, and the one that it raises for
        is answered with `RowRefusedError`; where the disk is what refuses, the whole batch is rolled back.
        """
        return Channel(self, apply)

    async def run(self, operation: Callable[[sqlite3.Connection], T], *, weight: int = 0) -> T:
        """Run an operation in the next transaction; durable when it returns. `weight` is as for `Channel.submit`.

        It shares the transaction with others, and is rolled back alone where it raises.

        Raises:
            StorageBusyError: too much waits already.
            StorageFailedError: the database could not be written, or is closed.
            Exception: what the operation raises.
        """
        answer: T = await self._operations.submit(operation, weight=weight)
        return answer

    def put(self, channel: Channel[Any, Any], item: Any, weight: int) -> asyncio.Future[Any]:
        """Queue an item of a channel; as `Channel.submit`."""
        if self._failure is not None:
            raise _ended_with(self._failure)
        if self._closing:
            raise StorageFailedError("the database is closed because the host is stopping: try again shortly")
        if self._pending >= MAX_PENDING or (self._pending_bytes + weight > MAX_PENDING_BYTES and self._pending):
            raise StorageBusyError("the disk does not keep up: try again in a moment", retry_after=1.0)
        self._pending += 1
        self._pending_bytes += weight
        answer: asyncio.Future[Any] = self._loop.create_future()
        batch = self._collecting
        kind = batch.channels.get(channel)
        if kind is None:
            kind = batch.channels[channel] = ([], [])
        kind[0].append(item)
        kind[1].append(answer)
        batch.size += 1
        batch.weight += weight
        if batch.size == 1:
            # Not at once: whoever else writes in this turn of the loop comes along.
            self._loop.call_soon(self._hand_over)
        return answer

    async def close(self) -> None:
        """Write what waits, then close the connection. Later writes are refused; closing again does nothing."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._inbox.put(None)
        await self._ended.wait()

    async def lives(self) -> None:
        """Return when the thread has ended because it was closed; until then nothing.

        Raises:
            StorageFailedError: it ended by what nobody foresaw. Nothing is written any more; who tries hears so.
        """
        await self._ended.wait()
        if self._failure is not None:
            raise _ended_with(self._failure)

    # -- on the loop

    def _hand_over(self) -> None:
        """Give the thread what has collected, unless it is busy; `_release` comes back to it then."""
        if self._collecting.size and (not self._writing or self._closing):
            batch, self._collecting = self._collecting, _Batch()
            self._writing = True
            self._handed_over.append(batch)
            self._inbox.put(batch)

    def _answer(self, batch: _Batch, results: list[Sequence[Any]], commits: _Commits) -> None:
        """The batch is durable: tell the hooks, then everyone who waits."""
        self._release(batch)
        for taken in commits:
            for hook, rows in zip(self._hooks, taken, strict=True):
                try:
                    hook.committed(rows)
                except Exception:  # noqa: BLE001 - logged with its traceback
                    # What is durable must be answered, whatever a listener makes of it.
                    _log.exception("commit_hook_failed")
        for (_, answers), found in zip(batch.channels.values(), results, strict=True):
            for answer, result in zip(answers, found, strict=True):
                if answer.done():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _refuse(self, batch: _Batch, error: Exception) -> None:
        """The batch was rolled back."""
        self._release(batch)
        for _, answers in batch.channels.values():
            for answer in answers:
                if not answer.done():
                    # One for each: a raised exception gathers a traceback that is its waiter's own.
                    answer.set_exception(_not_written(error))

    def _died(self, error: BaseException) -> None:
        """The thread is gone: nobody may wait for it."""
        self._failure = error
        self._closing = True
        left = [*self._handed_over, self._collecting]
        self._handed_over, self._collecting = [], _Batch()
        for batch in left:
            for _, answers in batch.channels.values():
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(_ended_with(error))
        self._ended.set()

    def _release(self, batch: _Batch) -> None:
        self._writing = False
        self._handed_over.remove(batch)
        self._pending -= batch.size
        self._pending_bytes -= batch.weight
        self._hand_over()

    # -- in the writer's thread

    def _main(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the start
            self._loop.call_soon_threadsafe(self._fail_start, error)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        try:
            self._serve(connection)
        except BaseException as error:  # noqa: BLE001 - logged; whoever waits, and whoever asks for health, hears of it
            _log.critical("writer_ended", exc_info=error)
            self._loop.call_soon_threadsafe(self._died, error)
        else:
            self._loop.call_soon_threadsafe(self._ended.set)

    def _serve(self, connection: sqlite3.Connection) -> None:
        commits = 0
        while (batch := self._next(connection)) is not None:
            self._write(connection, batch)
            commits += 1
            if commits % CHECKED_COMMITS == 0:
                self._checkpoint(connection)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        except sqlite3.Error as error:
            _log.warning("database_not_closed_cleanly", error=str(error))

    def _fail_start(self, error: Exception) -> None:
        self._closing = True
        self._ended.set()
        self._opened.set_exception(error)

    def _next(self, connection: sqlite3.Connection) -> _Batch | None:
        try:
            return self._inbox.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            self._checkpoint(connection)
        return self._inbox.get()

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> None:
        try:
            _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > MAX_WAL_PAGES:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            _log.warning("checkpoint_failed", error=str(error))

    def _write(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        failure: Exception = StorageFailedError("nothing was tried")
        for apart in (self._together, self._by_item, self._one_by_one):
            try:
                results, commits = apart(connection, batch)
            except Exception as error:  # noqa: BLE001 - every waiter hears of it, and the writer goes on
                failure = error
                if _is_of_the_disk(error):
                    break
                _log.warning("batch_to_be_written_apart", error=str(error), items=batch.size)
            else:
                self._loop.call_soon_threadsafe(self._answer, batch, results, commits)
                return
        expected = is_machine_failure(failure)
        _log.error("batch_not_written", error=str(failure), items=batch.size, exc_info=None if expected else failure)
        self._loop.call_soon_threadsafe(self._refuse, batch, failure)

    def _together(self, connection: sqlite3.Connection, batch: _Batch) -> tuple[list[Sequence[Any]], _Commits]:
        """Everything in one transaction: what ordinary batches are written by."""
        with self._transaction(connection):
            results = [channel.apply(connection, items) for channel, (items, _) in batch.channels.items()]
        return results, [self._taken()]

    def _by_item(self, connection: sqlite3.Connection, batch: _Batch) -> tuple[list[Sequence[Any]], _Commits]:
        """As `_together`, but item by item: the answer of one that is refused is why."""
        results: list[Sequence[Any]] = []
        with self._transaction(connection):
            for channel, (items, _) in batch.channels.items():
                found: list[Any] = []
                for item in items:
                    try:
                        with self._savepoint(connection):
                            found += channel.apply(connection, [item])
                    except Exception as error:  # the item's own answer, whatever it is
                        if is_machine_failure(error):
                            raise
                        found.append(_row_refused(error))
                results.append(found)
        return results, [self._taken()]

    def _one_by_one(self, connection: sqlite3.Connection, batch: _Batch) -> tuple[list[Sequence[Any]], _Commits]:
        """Each item in a transaction of its own: where one has met a damaged page, SQLite takes nothing more in it."""
        results: list[Sequence[Any]] = []
        commits: _Commits = []
        for channel, (items, _) in batch.channels.items():
            found: list[Any] = []
            for item in items:
                try:
                    with self._transaction(connection):
                        answer = channel.apply(connection, [item])
                except Exception as error:  # noqa: BLE001 - the item's own answer, whatever it is
                    found.append(_not_written(error) if _is_of_the_disk(error) else _row_refused(error))
                else:
                    found += answer
                    commits.append(self._taken())
            results.append(found)
        return results, commits

    def _run_each(
        self, connection: sqlite3.Connection, operations: list[Callable[[sqlite3.Connection], Any]]
    ) -> list[Any]:
        results: list[Any] = []
        for operation in operations:
            try:
                with self._savepoint(connection):
                    results.append(operation(connection))
            except Exception as error:  # the operation's own answer, whatever it is
                if is_machine_failure(error):
                    raise  # the disk's refusal, not the operation's; or what it met cannot be told from it here
                results.append(error)
        return results

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """What is written within is durable after it, or leaves no trace."""
        marks = self._marks()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException:  # raised again
            self._rewind(marks)
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                _log.exception("rollback_failed")
            raise

    def _taken(self) -> list[Any]:
        return [hook.take() for hook in self._hooks]

    @contextlib.contextmanager
    def _savepoint(self, connection: sqlite3.Connection) -> Iterator[None]:
        """What is written within leaves no trace where it raises, and where the disk refuses, the transaction."""
        marks = self._marks()
        connection.execute("SAVEPOINT operation")
        try:
            yield
        except Exception as error:
            if not is_machine_failure(error):
                connection.execute("ROLLBACK TO operation")
                self._rewind(marks)
                connection.execute("RELEASE operation")
            raise
        connection.execute("RELEASE operation")

    def _marks(self) -> list[int]:
        return [hook.mark() for hook in self._hooks]

    def _rewind(self, marks: list[int]) -> None:
        for hook, mark in zip(self._hooks, marks, strict=True):
            hook.rewind(mark)


_Commits: TypeAlias = list[list[Any]]
"""What each hook has collected, for each commit."""


def _is_of_the_disk(error: Exception) -> bool:
    """Whether the whole database cannot be written now, rather than one item of a batch."""
    return is_machine_failure(error) and not is_damage(error)


def _not_written(error: Exception) -> StorageFailedError:
    reason = f"the database could not be written ({error}): is the disk full? Nothing was kept; try again"
    return StorageFailedError(reason, retry_after=1.0)


def _ended_with(error: BaseException) -> StorageFailedError:
    return StorageFailedError(
        f"nothing is written any more, for the database's writer ended ({type(error).__name__}: {error}): restart the "
        "daemon; nothing that was acknowledged is lost"
    )


def _row_refused(error: Exception) -> RowRefusedError:
    return RowRefusedError(f"the database does not take it: {type(error).__name__}: {error}")
