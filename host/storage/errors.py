"""What goes wrong with the disk and the database."""

from __future__ import annotations

from host.errors import BusbarError, ErrorKind


class StorageError(BusbarError):
    """Base of the errors of this folder."""

    code = "storage_error"


class StorageFailedError(StorageError):
    """The database could not be written: a full disk, an I/O error. Nothing of the batch was kept."""

    code = "storage_unavailable"
    kind = ErrorKind.UNAVAILABLE


class StorageBusyError(StorageError):
    """More waits to be written than the bound allows."""

    code = "storage_busy"
    kind = ErrorKind.BUSY


class SchemaError(StorageError):
    """The database belongs to a newer host, or a migration failed."""

    code = "storage_schema"


class KeyringError(StorageError):
    """The key is unusable, or what it should open was altered."""

    code = "keyring_error"
