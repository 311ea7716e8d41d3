"""What goes wrong when plugins ask something of the host, or of each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from host.errors import BusbarError, ErrorKind


class PortError(BusbarError):
    """Base of the errors of this folder."""

    code: ClassVar[str] = "port_error"
    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class PluginNotRunningError(PortError):
    """The plugin has no runtime now, so it can serve no call."""

    code = "plugin_not_running"
    kind = ErrorKind.UNAVAILABLE


class MethodNotFoundError(PortError):
    """The plugin has no such service."""

    code = "method_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, plugin: str, method: str) -> None:
        super().__init__(f"Method {method} not found on plugin {plugin}")


class PermissionRefusedError(PortError):
    """A plugin asked for something outside its grants."""

    code = "permission_denied"
    kind = ErrorKind.FORBIDDEN


class CallFailedError(PortError):
    """A service of a plugin raised."""

    code = "plugin_call_failed"
    kind = ErrorKind.UPSTREAM


class ArgumentsRefusedError(PortError):
    """A service does not take these arguments; the sentence says which, and what it takes."""

    code = "arguments_invalid"
    kind = ErrorKind.UNPROCESSABLE


class KeyValueRefusedError(PortError):
    """A key or value outside its bounds."""

    code = "kv_quota_exceeded"
    kind = ErrorKind.TOO_LARGE


class CallCycleError(PortError):
    """A call that would wait for itself."""

    code = "call_cycle"

    def __init__(self, chain: Iterable[str]) -> None:
        super().__init__(
            f"the call goes in a circle, or through too many plugins: {' -> '.join(chain)}; "
            "emit an event instead of waiting for an answer"
        )
