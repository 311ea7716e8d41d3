"""What goes wrong between the host and a plugin's code."""

from __future__ import annotations

from host.errors import BusbarError, ErrorKind


class RuntimeFailedError(BusbarError):
    """Base of the errors of this folder."""

    code = "runtime_error"
    kind = ErrorKind.UNAVAILABLE


class NotRunningError(RuntimeFailedError):
    """No runtime took the call: nothing of the plugin has run."""

    code = "plugin_not_running"


class WorkerDiedError(RuntimeFailedError):
    """The worker ended while the call was in it."""

    code = "worker_died"


class HookFailedError(RuntimeFailedError):
    """A hook raised: `type` is the exception's name, `traceback` shows the author's lines."""

    code = "hook_failed"
    kind = ErrorKind.UPSTREAM

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type = type_name
        self.traceback = traceback


class HookAnswerError(HookFailedError):
    """A hook returned what it must not: the wrong type, or what cannot be handed on."""

    code = "plugin_answer_invalid"

    def __init__(self, why: str) -> None:
        super().__init__("TypeError", f"the hook's answer has the wrong shape: {why}")


class StartFailedError(RuntimeFailedError):
    """The plugin could not be started; `retryable` where the same again may do."""

    code = "plugin_start_failed"
    kind = ErrorKind.UNPROCESSABLE

    def __init__(self, message: str, *, retryable: bool, traceback: str = "") -> None:
        super().__init__(message)
        self.retryable = retryable
        self.traceback = traceback


class ReleaseModifiedError(StartFailedError):
    """A file that the plugin imports is not what was verified; its code has not run."""

    code = "release_modified"


class ForkServerError(RuntimeFailedError):
    """The fork server could not be started or could not fork."""

    code = "fork_server_failed"
