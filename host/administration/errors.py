"""What goes wrong when plugins are managed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from host.errors import BusbarError, ErrorKind


class AdministrationError(BusbarError):
    """Base of the errors of this folder."""

    code: ClassVar[str] = "administration_error"
    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class PluginInstalledError(AdministrationError):
    """The very same release is installed already."""

    code = "plugin_already_installed"


class PluginStartFailedError(AdministrationError):
    """The desired state is set, but the plugin could not be brought to it; the sentence says why."""

    code = "plugin_start_failed"
    kind = ErrorKind.UNPROCESSABLE


class ApprovalNeededError(AdministrationError):
    """The release asks for permissions that nobody has granted."""

    code = "plugin_needs_approval"


class NothingToRollBackError(AdministrationError):
    """The plugin has no earlier release to go back to."""

    code = "nothing_to_roll_back"


class ConfigRefusedError(AdministrationError):
    """The plugin's own model does not accept the config."""

    code = "config_invalid"
    kind = ErrorKind.INVALID


class GrantsRefusedError(AdministrationError):
    """A grant that the release does not ask for."""

    code = "grants_invalid"
    kind = ErrorKind.INVALID


class SubscriptionNotFoundError(AdministrationError):
    """The plugin has no subscription of that name."""

    code = "subscription_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, plugin: str, name: str, names: Iterable[str]) -> None:
        super().__init__(f"{plugin} has no subscription '{name}': it has {', '.join(names) or 'none'}")


class PolicyRefusedError(AdministrationError):
    """A delivery policy that cannot be meant."""

    code = "policy_invalid"
    kind = ErrorKind.UNPROCESSABLE


class NothingToReplayError(AdministrationError):
    """The log has no event of the time that is to be replayed."""

    code = "nothing_to_replay"
    kind = ErrorKind.UNPROCESSABLE
