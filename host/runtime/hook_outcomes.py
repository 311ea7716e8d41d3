"""What a hook's messages mean to whoever called it: the value in the shape that the hook promises, or the exception."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from host.runtime.errors import HookAnswerError, HookFailedError
from plugin_sdk.calls import Health, HealthCall, HookCall, Request, Response
from plugin_sdk.errors import ArgumentsError, DeadLetter, Drop, HostError, Retry
from plugin_sdk.strict_json import loads
from plugin_sdk.worker.outcomes import AnswerError, text
from plugin_sdk.worker.wire import Raised

MAX_HEALTH_REASON: Final = 2048
"""Characters of a health reason: it stands in every answer about the plugin."""


def error_of(message: Raised) -> Exception:
    """The exception that a hook's `Raised` stands for."""
    match message.kind:
        case "retry":
            return Retry(message.after, message.reason)
        case "drop":
            return Drop(message.reason)
        case "dead-letter":
            return DeadLetter(message.reason)
        case "arguments":
            return ArgumentsError(message.reason, message.name)
        case "host":
            return HostError(message.reason, message.name)
        case "failure" if message.name == AnswerError.__name__:
            return HookAnswerError(message.reason)
        case _:
            return HookFailedError(message.name, message.reason, message.traceback)


def value_of(call: HookCall, value: bytes | None) -> Any:
    """A hook's answer, JSON or nothing, in the shape that the hook promises.

    Raises:
        HookAnswerError: it has another shape.
    """
    shape: Any = Health if isinstance(call, HealthCall) else Response if isinstance(call, Request) else Any
    if value is None:
        if shape is Response:
            raise HookAnswerError("nothing was returned, and a request needs a Response")
        return Health() if shape is Health else None
    try:
        found = loads(value) if shape is Any else msgspec.json.decode(value, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HookAnswerError(str(error)) from None
    return Health(found.status, text(found.reason, MAX_HEALTH_REASON)) if isinstance(found, Health) else found
