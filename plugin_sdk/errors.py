"""What a plugin raises to decide a delivery, and what the SDK raises when it is used wrongly.

`Retry`, `Drop` and `DeadLetter` are verdicts, not failures: the host acts on them and the breaker
does not count them. Every other exception out of a hook is a failure and is retried by policy.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import ClassVar


class PluginError(Exception):
    """Base of everything the SDK raises; `code` is stable and machine-readable."""

    code: ClassVar[str] = "plugin_error"


class Verdict(PluginError):
    """Base of the three ways a hook can decide what becomes of its delivery."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Verdict):
    """Deliver again later, although nothing is broken.

    Args:
        after: Seconds or a timedelta to wait; None for the subscription's own back-off.
        reason: Kept with the attempt.

    Raises:
        TypeError: `after` is no number, as where the reason was given first.
        ValueError: `after` is no finite number.
    """

    code = "retry"

    def __init__(self, after: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.after = _seconds(after)


def _seconds(after: float | timedelta | None) -> float | None:
    if isinstance(after, timedelta):
        return after.total_seconds()
    if after is not None:
        if not isinstance(after, int | float):
            raise TypeError(f"Retry takes seconds first, not {after!r}: write Retry(after=5, reason='…')")
        if not math.isfinite(after):
            raise ValueError(f"Retry(after={after!r}): it must be a finite number of seconds")
    return after


class Drop(Verdict):
    """Forget this delivery on purpose; it is counted with its reason and never tried again."""

    code = "drop"


class DeadLetter(Verdict):
    """Give this delivery up now and keep it, with the reason, until a person decides."""

    code = "dead_letter"


class InvalidEventError(PluginError):
    """An event that is not a CloudEvents 1.0 event; `attribute` names the one that is wrong."""

    code = "event_invalid"

    def __init__(self, message: str, attribute: str) -> None:
        super().__init__(message)
        self.attribute = attribute


class DescriptionError(PluginError):
    """The plugin's code describes something that the contract does not allow."""

    code = "plugin_description_invalid"


class ManifestError(PluginError):
    """`plugin.toml` is missing, malformed, or asks for something unknown; `problems` has a sentence each."""

    code = "manifest_invalid"

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class SandboxError(PluginError):
    """A worker is not confined as the host requires; no plugin is loaded there."""

    code = "sandbox_unavailable"


class HostError(PluginError):
    """The host refused a request of the plugin; `word` is the host's own code for why."""

    code = "host_error"

    def __init__(self, message: str, word: str = "host_error") -> None:
        super().__init__(message)
        self.word = word


class ArgumentsError(HostError):
    """What a caller gave does not fit the service: his mistake, which the callee's breaker does not count.

    The SDK raises it where arguments do not fit a method's signature. Raise it for what a signature cannot say.
    """

    code = "arguments_invalid"

    def __init__(self, message: str, word: str = "arguments_invalid") -> None:
        super().__init__(message, word)


class PermissionDeniedError(HostError):
    """The plugin asked for something outside its grants."""

    code = "permission_denied"

    def __init__(self, message: str, word: str = "permission_denied") -> None:
        super().__init__(message, word)
