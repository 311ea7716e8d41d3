"""What goes wrong with the disk, the database and the key."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Final

from host.errors import BusbarError, ErrorKind

# Primary result codes (https://sqlite.org/rescode.html) that tell of the machine, not of our SQL.
_MACHINE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
    }
)

_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class StorageError(BusbarError):
    """Base of the errors of this folder."""

    code = "storage_error"


class StorageFailedError(StorageError):
    """The database could not be read or written: a full disk, an I/O error. Nothing of the batch was kept."""

    code = "storage_unavailable"
    kind = ErrorKind.UNAVAILABLE


class RowRefusedError(StorageError):
    """The database refuses one item, for what it holds or where it would stand; the disk itself is well.

    Nothing of the item was kept, and nothing else was refused for its sake.
    """

    code = "storage_refused"
    kind = ErrorKind.UNAVAILABLE


class StorageBusyError(StorageError):
    """More waits to be written or read than the bound allows."""

    code = "storage_busy"
    kind = ErrorKind.BUSY


class LogWriterError(StorageError):
    """The process that writes the log could not be started, or ends again and again."""

    code = "log_writer_ended"
    kind = ErrorKind.UNAVAILABLE


class QuotaUsedUpError(StorageError):
    """A plugin would keep more keys and values than it may, in bytes."""

    code = "kv_quota_exceeded"
    kind = ErrorKind.TOO_LARGE

    def __init__(self, plugin: str, after: int, quota: int) -> None:
        super().__init__(f"{plugin} would keep {after} bytes of {quota}: delete keys it no longer needs")


class OddFileError(StorageError):
    """Something else lies where a file or a folder should: a link, a pipe, a device, or a file without end."""

    code = "odd_file"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}: look at who put it there, and move it away")


class StateFolderError(StorageError):
    """The state folder cannot be used as it is."""

    code = "state_folder"


class StateBusyError(StorageError):
    """Another daemon has the state folder."""

    code = "state_busy"


class HistoryLostError(StorageError):
    """What the host keeps is gone, or empty, although it has a history; nothing is made in its place."""

    code = "history_lost"


class SchemaError(StorageError):
    """The database belongs to a newer host, or a migration failed."""

    code = "storage_schema"


class KeyringError(StorageError):
    """The key is unusable, or what it should open was altered."""

    code = "keyring_error"


class SealBrokenError(StorageError):
    """Rows that nobody but the host may change are not as the host left them."""

    code = "seal_broken"


def disk_failure(error: OSError) -> StorageFailedError | None:
    """The refusal of a disk that has no room or fails, at whatever was under way; None for another error."""
    if error.errno not in _DISK:
        return None
    return StorageFailedError(
        f"the host cannot write ({error.strerror}): is the disk full? Make room for its state, then try again",
        retry_after=5.0,
    )


def unreadable(what: str, error: OSError) -> StorageFailedError:
    """The machine refused to read or write something, which says nothing of what lies there."""
    return StorageFailedError(
        f"{what} cannot be read or written now ({error.strerror or error}): look at the machine's disk, memory and "
        "open files",
        retry_after=1.0,
    )


def is_machine_failure(error: Exception) -> bool:
    """Whether SQLite failed because of disk, memory or locks rather than because of a mistake in our SQL."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code is not None and code & 0xFF in _MACHINE


def is_damage(error: Exception) -> bool:
    """Whether a page of the database is damaged: what touches it fails, and what does not touch it goes on."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code is not None and code & 0xFF == sqlite3.SQLITE_CORRUPT
