"""Answers to what is no request yet, or not any more: written as they are, for there is nobody to render them.

They are the envelope of every answer all the same, so that a client that reads one reads why.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from host.api.envelope import failure
from host.api.rendered import JSON
from host.api.trace import new_trace


@dataclass(frozen=True, slots=True)
class Farewell:
    """A last answer on a connection. `again` is in how many seconds the client may come back; 0 for no advice."""

    status: HTTPStatus
    code: str
    message: str
    again: int = 0


SLOW_HEAD: Final = Farewell(
    HTTPStatus.REQUEST_TIMEOUT, "head_too_slow", "the head of the request did not come in time: send it at once"
)
SLOW_BODY: Final = Farewell(
    HTTPStatus.REQUEST_TIMEOUT, "body_too_slow", "the body of the request did not come in time: send it without pauses"
)
WIDE_HEAD: Final = Farewell(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "the head of the request is too large: send less"
)
FULL: Final = Farewell(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "too_many_connections",
    "there are too many connections now: close some, or try again later",
    again=1,
)


def farewell(last: Farewell) -> bytes:
    """A last answer as it goes out."""
    trace = new_trace()
    body = failure(last.code, last.message, trace, status=last.status).body
    if not isinstance(body, bytes):
        raise TypeError("an envelope is rendered when it is made")
    head = [
        f"HTTP/1.1 {last.status.value} {last.status.phrase}",
        f"Content-Type: {JSON}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        f"X-Trace-ID: {trace}",
        *([f"Retry-After: {last.again}"] if last.again else ()),
    ]
    return "".join(f"{line}\r\n" for line in head).encode() + b"\r\n" + body
