"""The edge around every handler: a trace id for each request, and an answer for everything that can go wrong.

It wraps the handlers themselves instead of being an aiohttp middleware: those cost a fifth of a bare request.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from host.api.bodies import TOKEN
from host.api.endpoint import TRACE
from host.api.envelope import failure, refusal
from host.api.refusals import Notes, Refused
from host.api.rendered import stamp
from host.api.trace import trace_of
from host.errors import BusbarError, ErrorKind
from host.identity.guesses import TooManyAttemptsError
from host.observe.metrics import RequestCounts
from host.storage.errors import disk_failure
from plugin_sdk.errors import DescriptionError, InvalidEventError

_CODES: Final = {
    400: ("bad_request", "the request is malformed"),
    404: ("not_found", "there is nothing at this path: GET /api/openapi.json lists what there is"),
    405: ("method_not_allowed", "this path does not take this method"),
    411: ("length_required", "send a Content-Length"),
    413: ("body_too_large", "the body is larger than this host takes"),
    415: ("unsupported_media_type", "this content type is not read here"),
}
_REFUSED: Final = frozenset({ErrorKind.UNAUTHENTICATED, ErrorKind.FORBIDDEN})
_log = structlog.get_logger("api")


def edge(
    counts: RequestCounts,
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    *,
    quiet: bool,
    route: str = "",
    refusals: Notes | None = None,
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """The handler with the edge around it.

    Args:
        counts: Where its requests are counted.
        handler: What serves them.
        quiet: Leaves them out of the log.
        route: The path of its endpoint, for the audit trail.
        refusals: Told of those that are refused for want of permission.
    """

    async def edged(request: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        trace = request[TRACE] = trace_of(request)
        if not quiet:
            structlog.contextvars.bind_contextvars(trace_id=trace)
            _log.info(
                "Request started",
                traceId=trace,
                method=request.method,
                url=request.path,
                userAgent=request.headers.get("User-Agent", "")[:200],
                ip=request.remote,
            )
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - the last stop: it has an answer for each
            response = await _failed(error, request, trace, route, refusals)
        duration = time.perf_counter() - started
        counts.count(request.method, response.status, duration)
        if not response.prepared:
            stamp(response, trace)
        if response.status >= 500:  # noqa: PLR2004 - the server's own failures
            _log.warning("Request failed", traceId=trace, url=request.path, status=response.status)
        elif not quiet:
            _log.info(
                "Request finished",
                traceId=trace,
                method=request.method,
                url=request.path,
                status=response.status,
                duration_ms=round(duration * 1000, 1),
            )
        return response

    return edged


async def _failed(
    error: Exception, request: web.BaseRequest, trace: str, route: str, refusals: Notes | None
) -> web.StreamResponse:
    """The answer to a request that failed; what is nobody's mistake is logged with its traceback, and never shown."""
    if isinstance(error, BusbarError):
        response = refusal(error, trace)
        guessed = isinstance(error, TooManyAttemptsError)
        if guessed:
            response.force_close()  # the next guess costs a connection
        if refusals is not None and (guessed or error.kind in _REFUSED):
            await refusals.note(_refused(request, error, route))
        return response
    if isinstance(error, InvalidEventError):
        return failure(error.code, str(error), trace, status=400, errors=(error.attribute,))
    if isinstance(error, DescriptionError):
        return failure(error.code, str(error), trace, status=400)
    if isinstance(error, web.HTTPException):
        code, message = _CODES.get(error.status, ("http_error", error.reason))
        kept = {name: value for name, value in error.headers.items() if name in {"Allow", "Location"}}
        return failure(code, message, trace, status=error.status, headers=kept)
    full = disk_failure(error) if isinstance(error, OSError) else None
    if full is not None:
        _log.warning("disk_refused", traceId=trace, url=request.path, reason=str(error))
        return refusal(full, trace)
    _log.error("request_crashed", traceId=trace, method=request.method, url=request.path, exc_info=error)
    return failure(
        "internal_error",
        f"the host failed at this request; its log has the cause under trace id {trace}",
        trace,
        status=500,
    )


def _refused(request: web.BaseRequest, error: BusbarError, route: str) -> Refused:
    token = request.get(TOKEN)
    actor = "anonymous" if token is None else f"token:{token.name}"
    if token is None and "Authorization" in request.headers:
        actor = "unknown"
    return Refused(
        actor=actor,
        remote=request.remote,
        method=request.method,
        route=route,
        path=request.path,
        status=error.kind.value,
        code=error.word,
        token="" if token is None else token.id,
    )
