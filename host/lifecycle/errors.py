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


class ConfigNotTakenError(LifecycleError):
    """The running plugin did not take its new config; it is started anew with it."""

    code = "config_not_taken"
    kind = ErrorKind.UNPROCESSABLE


class PluginNotStoppedError(LifecycleError):
    """The plugin's code runs no more, but not all that belongs to it could be ended; it is tried again."""

    code = "plugin_not_stopped"
    kind = ErrorKind.UNAVAILABLE
