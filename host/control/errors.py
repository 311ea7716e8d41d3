"""What goes wrong when plugins are managed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from host.errors import BusbarError, ErrorKind


class ControlError(BusbarError):
    """Base of the errors of this folder."""

    code: ClassVar[str] = "control_error"
    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class PluginNotFoundError(ControlError):
    """No plugin of that id is installed."""

    code = "plugin_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, plugin: str) -> None:
        super().__init__(f"Plugin {plugin} not found: GET /api/v1/plugins lists those that are installed")


class PluginInstalledError(ControlError):
    """The very same release is installed already."""

    code = "plugin_already_installed"


class PluginNotRunningError(ControlError):
    """The plugin has no runtime now, so it can serve no call."""

    code = "plugin_not_running"
    kind = ErrorKind.UNAVAILABLE


class PluginStartFailedError(ControlError):
    """The desired state is set, but the plugin could not be brought to it; the sentence says why."""

    code = "plugin_start_failed"
    kind = ErrorKind.UNPROCESSABLE


class ApprovalNeededError(ControlError):
    """The release asks for permissions that nobody has granted."""

    code = "plugin_needs_approval"


class RegistryTamperedError(ControlError):
    """The registry is not as this host left it; nothing runs by it until an administrator confirms it."""

    code = "registry_tampered"


class UpgradeFailedError(ControlError):
    """The new release did not take over, or was taken back; the one before it runs on, and the sentence says why."""

    code = "upgrade_failed"
    kind = ErrorKind.UNPROCESSABLE


class NothingToRollBackError(ControlError):
    """The plugin has no earlier release to go back to."""

    code = "nothing_to_roll_back"


class MethodNotFoundError(ControlError):
    """The plugin has no such service."""

    code = "method_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, plugin: str, method: str) -> None:
        super().__init__(f"Method {method} not found on plugin {plugin}")


class ConfigRefusedError(ControlError):
    """The plugin's own model does not accept the config."""

    code = "config_invalid"
    kind = ErrorKind.INVALID


class GrantsRefusedError(ControlError):
    """A grant that the release does not ask for."""

    code = "grants_invalid"
    kind = ErrorKind.INVALID


class PermissionRefusedError(ControlError):
    """A plugin asked for something outside its grants."""

    code = "permission_denied"
    kind = ErrorKind.FORBIDDEN


class CallFailedError(ControlError):
    """A service of a plugin raised."""

    code = "plugin_call_failed"
    kind = ErrorKind.UPSTREAM


class ArgumentsRefusedError(ControlError):
    """A service does not take these arguments; the sentence says which, and what it takes."""

    code = "arguments_invalid"
    kind = ErrorKind.UNPROCESSABLE


class KeyValueRefusedError(ControlError):
    """A key or value outside its bounds."""

    code = "kv_quota_exceeded"
    kind = ErrorKind.TOO_LARGE


class CallCycleError(ControlError):
    """A call that would wait for itself."""

    code = "call_cycle"

    def __init__(self, chain: Iterable[str]) -> None:
        super().__init__(
            f"the call goes in a circle, or through too many plugins: {' -> '.join(chain)}; "
            "emit an event instead of waiting for an answer"
        )


class SubscriptionNotFoundError(ControlError):
    """The plugin has no subscription of that name."""

    code = "subscription_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, plugin: str, name: str, names: Iterable[str]) -> None:
        super().__init__(f"{plugin} has no subscription '{name}': it has {', '.join(names) or 'none'}")


class PolicyRefusedError(ControlError):
    """A delivery policy that cannot be meant."""

    code = "policy_invalid"
    kind = ErrorKind.UNPROCESSABLE


class NothingToReplayError(ControlError):
    """The log has no event of the time that is to be replayed."""

    code = "nothing_to_replay"
    kind = ErrorKind.UNPROCESSABLE


class WebhookRefusedError(ControlError):
    """A webhook that is not taken; the sentence does not say why, and the status is always the same."""

    code = "webhook_refused"
    kind = ErrorKind.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__("this webhook is not accepted: check its address, its secret and the sender's clock")


class WebhookBusyError(ControlError):
    """Webhooks come faster than they are looked at, or nobody is there to look."""

    code = "webhook_busy"
    kind = ErrorKind.BUSY
