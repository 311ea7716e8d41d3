"""Transactions and savepoints as those who write the file use them, and what their failures are called."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from host.storage.errors import RowRefusedError, StorageFailedError, is_damage, is_machine_failure


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written within is durable after it, or leaves no trace."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:  # raised again
        # Where even the rollback fails, the next BEGIN does, and says why.
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written within leaves no trace where it raises; where the disk refuses, the transaction has to go."""
    connection.execute("SAVEPOINT operation")
    try:
        yield
    except Exception as error:  # raised again
        if not is_machine_failure(error):
            connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")
        raise
    connection.execute("RELEASE operation")


def is_of_the_disk(error: Exception) -> bool:
    """Whether the whole database cannot be written now, rather than one item of a batch."""
    return is_machine_failure(error) and not is_damage(error)


def not_written(reason: object) -> StorageFailedError:
    """That a batch was rolled back."""
    message = f"the database could not be written ({reason}): is the disk full? Nothing was kept; try again"
    return StorageFailedError(message, retry_after=1.0)


def row_refused(reason: object) -> RowRefusedError:
    """That one item was refused for its own sake."""
    named = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason
    return RowRefusedError(f"the database does not take it: {named}")
