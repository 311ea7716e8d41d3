"""What goes wrong when a plugin is brought to what is wanted of it."""

from __future__ import annotations

from typing import ClassVar

from host.errors import BusbarError, ErrorKind


class LifecycleError(BusbarError):
    """Base of the errors of this folder."""

    code: ClassVar[str] = "lifecycle_error"
    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class UpgradeFailedError(LifecycleError):
    """The new release did not take over, or was taken back; the one before it runs on, and the sentence says why."""

    code = "upgrade_failed"
    kind = ErrorKind.UNPROCESSABLE


class PurgeUnfinishedError(LifecycleError):
    """What a purged plugin left on the disk could not be removed; it is tried again."""

    code = "purge_unfinished"
    kind = ErrorKind.UNAVAILABLE
