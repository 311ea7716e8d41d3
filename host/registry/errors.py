"""What goes wrong with the desired state."""

from __future__ import annotations

from typing import ClassVar

from host.errors import BusbarError, ErrorKind


class RegistryError(BusbarError):
    """Base of the errors of this folder."""

    code: ClassVar[str] = "registry_error"
    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class PluginNotFoundError(RegistryError):
    """No plugin of that id is installed."""

    code = "plugin_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, plugin: str) -> None:
        super().__init__(f"Plugin {plugin} not found: GET /api/v1/plugins lists those that are installed")


class RegistryTamperedError(RegistryError):
    """The registry is not as this host left it; nothing runs by it until an administrator confirms it."""

    code = "registry_tampered"


class PluginLeavingError(RegistryError):
    """The plugin is being uninstalled, and nothing may take its id before that is done."""

    code = "plugin_leaving"
    kind = ErrorKind.CONFLICT

    def __init__(self, plugin: str) -> None:
        super().__init__(f"{plugin} is being uninstalled: try again in a moment", retry_after=1.0)


class RecordDamagedError(RegistryError):
    """The row of a plugin cannot be read, so it is not changed either: what was in it would be lost."""

    code = "record_damaged"

    def __init__(self, plugin: str, damage: str) -> None:
        super().__init__(
            f"what is kept of {plugin} cannot be read ({damage}): restore the state folder from a backup, or uninstall "
            "the plugin and install it again"
        )


class CandidateChangedError(RegistryError):
    """The release that was to take over is not wanted any more."""

    code = "candidate_changed"

    def __init__(self, plugin: str) -> None:
        super().__init__(f"another release of {plugin} is to take over by now, or none")
