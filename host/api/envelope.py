"""The envelope of every JSON answer, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web
from pydantic import BaseModel

from host.api.body import ACCEPTED
from host.api.errors import UnsupportedCodingError
from host.api.rendered import RenderedResponse
from host.errors import BusbarError

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


def rfc3339(stamp: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC; None stays None."""
    return None if stamp is None else written(stamp)


def written(stamp: float) -> str:
    """As `rfc3339`, for a time that is always there.

    What lies outside the years that RFC 3339 has is written as their end: no list fails for one odd row in it.
    """
    try:
        instant = datetime.fromtimestamp(stamp, UTC)
    except (ValueError, OverflowError, OSError):  # NaN, infinite, or a year that no calendar here has
        instant = _LATEST if stamp > 0 else _EARLIEST
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def success(
    data: Any,
    trace_id: str,
    *,
    status: int = 200,
    message: str | None = None,
    pagination: Mapping[str, int] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """An answer that went well."""
    body: dict[str, Any] = {"success": True}
    if data is not None:
        body["data"] = data
    if message:
        body["message"] = message
    if pagination is not None:
        body["pagination"] = pagination
    return _response(body, trace_id, status, headers)


def failure(
    code: str,
    message: str,
    trace_id: str,
    *,
    status: int,
    errors: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """An answer that says what is wrong."""
    body: dict[str, Any] = {"success": False, "code": code, "message": message}
    if errors:
        body["errors"] = list(errors)
    return _response(body, trace_id, status, headers)


def refusal(error: BusbarError, trace_id: str) -> web.Response:
    """The one place where an error of the host becomes an HTTP answer."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.kind.value == 401:  # noqa: PLR2004 - RFC 9110, section 15.5.2
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedCodingError):
        headers["Accept-Encoding"] = ACCEPTED  # RFC 9110, section 15.5.16
    return failure(error.word, error.message, trace_id, status=error.kind.value, errors=error.errors, headers=headers)


def _response(body: dict[str, Any], trace_id: str, status: int, headers: Mapping[str, str] | None) -> web.Response:
    body["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body["traceId"] = trace_id
    try:
        encoded = _encode(body)
    except UnicodeEncodeError:  # half of a surrogate pair, in what was kept before texts were looked at
        encoded = _encode(_shown(body))
    return RenderedResponse(encoded, status, headers)


def _shown(value: Any) -> Any:
    """A value whose every text can be encoded; what cannot is written as an escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, BaseModel):
        return _shown(_plain(value))
    if isinstance(value, Mapping):
        return {_shown(name): _shown(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
