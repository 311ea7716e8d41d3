"""What came of a hook, as a message: what it returned, or what it raised. Used by both runtimes.

A plugin's exceptions are its own objects, with attributes and methods that it may have changed: what leaves here is
plain, finite, encodable and bounded, whatever they are.
"""

from __future__ import annotations

import math
import traceback
from typing import Final

from plugin_sdk.calls import Response
from plugin_sdk.errors import ArgumentsError, DeadLetter, Drop, HostError, InvalidEventError, Retry
from plugin_sdk.strict_json import StrictJsonError, dumps
from plugin_sdk.worker.wire import MAX_LINE, MAX_NAME, MAX_PAYLOAD, MAX_TRACEBACK, MAX_WAIT, Raised, Reply

_SDK: Final = "/plugin_sdk/"


class AnswerError(TypeError, ValueError):
    """A hook returned what is no answer: of a wrong type, or too large. Its name tells the host so."""


def returned(number: int, value: object) -> Reply:
    """The answer of a hook that returned a JSON value, or nothing.

    Raises:
        AnswerError: it is no JSON value, or larger than an answer may be.
    """
    return Reply(number, None if value is None else encoded(value))


def encoded(value: object) -> bytes:
    """A hook's answer as JSON; errors as of `returned`."""
    if isinstance(value, Response) and not isinstance(value.body, bytes | bytearray | memoryview):
        # As JSON, a text would be taken for the base64 of other bytes.
        raise AnswerError(f"the body of a Response is bytes, not {type(value.body).__name__}: encode it")
    try:
        found = dumps(value)
    except StrictJsonError as error:
        raise AnswerError(f"a hook must return a JSON value: {error}") from None
    if len(found) > MAX_PAYLOAD:
        raise AnswerError(f"an answer of {len(found)} bytes is more than {MAX_PAYLOAD}")
    return found


def raised(number: int, error: BaseException, seconds: float = 0.0) -> Raised:
    """What a hook raised, after so many seconds."""
    try:
        return _raised(number, error, seconds)
    except Exception:  # noqa: BLE001 - code of the plugin's exception ran, and whatever that raises says only this
        reason = "the exception cannot be described: its own methods raise"
        return Raised(number, "failure", reason, name="Exception", seconds=seconds)


def _raised(number: int, error: BaseException, seconds: float) -> Raised:
    match error:
        case Retry():
            after = wait_of(error.after)
            if after is None and error.after is not None:
                reason = f"Retry was raised with after={error.after!r}: it is a finite number of seconds"
                return _failure(number, text(reason), "ValueError", error, seconds)
            return Raised(number, "retry", text(error.reason), after, seconds=seconds)
        case Drop():
            return Raised(number, "drop", text(error.reason), seconds=seconds)
        case DeadLetter():
            return Raised(number, "dead-letter", text(error.reason), seconds=seconds)
        case ArgumentsError():
            return Raised(number, "arguments", text(error), name=text(error.word, MAX_NAME), seconds=seconds)
        case HostError() | InvalidEventError():
            word = text(error.word, MAX_NAME) if isinstance(error, HostError) else error.code
            return Raised(number, "host", text(error), name=word, traceback=trace(error), seconds=seconds)
        case _:
            return _failure(number, text(error), text(type(error).__name__, MAX_NAME), error, seconds)


def _failure(number: int, reason: str, name: str, error: BaseException, seconds: float) -> Raised:
    return Raised(number, "failure", reason, name=name, traceback=trace(error), seconds=seconds)


def wait_of(wait: object) -> float | None:
    """A wait that a plugin asks for, as seconds from 0 to `MAX_WAIT`; None where it is no finite number."""
    if not isinstance(wait, int | float):
        return None
    try:
        found = float(wait)
    except OverflowError:
        return MAX_WAIT if wait > 0 else 0.0
    return min(max(found, 0.0), MAX_WAIT) if math.isfinite(found) else None


def text(value: object, longest: int = MAX_LINE) -> str:
    """A text of a plugin's as at most so many characters that can be encoded; lone surrogates stand as escapes."""
    found = str.__str__(str(value))[:longest]  # of a subclass of str, too: its own slices may be anything
    if not found.isascii():
        found = found.encode("utf-8", "backslashreplace").decode()[:longest]
    return found


def trace(error: BaseException) -> str:
    """The traceback from the author's first line on: what lies above is the worker's own."""
    frames = error.__traceback__
    while frames is not None and _SDK in frames.tb_frame.f_code.co_filename and frames.tb_next:
        frames = frames.tb_next
    found = "".join(traceback.format_exception(type(error), error, frames))
    return text(found[-MAX_TRACEBACK:], MAX_TRACEBACK)
