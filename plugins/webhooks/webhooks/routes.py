"""HTTP under `/p/webhooks/`: which request is whose, who may ask at all, and errors as answers."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from plugin_sdk import Context, HostError, Request, Response
from plugin_sdk.errors import DescriptionError
from webhooks.errors import ApiError

TOKEN_HEADER: Final = "x-webhooks-token"  # noqa: S105 - the name of a header
TOKEN_SECRET: Final = "admin_token"  # noqa: S105 - the name of a secret
MIN_TOKEN: Final = 16

Handler = Callable[..., Awaitable[tuple[int, Any]]]


class Routes:
    """A table of methods, paths and handlers; `{}` in a path is an endpoint's id, handed to the handler."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Have a handler serve a method of a path. It answers a status and a JSON value, None for no body."""
        self._rows.append((method, re.compile(re.escape(path).replace(r"\{\}", "([A-Za-z0-9_]{1,64})")), handler))

    async def serve(self, request: Request, context: Context) -> Response:
        """Answer a request: whoever does not hold the token learns nothing but that."""
        try:
            _authenticate(request, context)
            handler, parts = self._found(request)
            status, answer = await handler(request, *parts)
        except ApiError as error:
            return _error(error.status, error.word, str(error))
        except DescriptionError as error:  # of the filter language
            return _error(400, error.code, str(error))
        except HostError as error:
            return _error(503, error.word, f"the host does not keep it now: {error}")
        return _json(status, answer)

    def _found(self, request: Request) -> tuple[Handler, tuple[str, ...]]:
        allowed = []
        for method, path, handler in self._rows:
            if match := path.fullmatch(request.path):
                if method == request.method:
                    return handler, match.groups()
                allowed.append(method)
        if allowed:
            raise ApiError(405, "method_not_allowed", f"{request.path} takes {' and '.join(allowed)}")
        raise ApiError(404, "route_not_found", f"there is nothing at {request.path[:200]}: begin with /endpoints")


def _authenticate(request: Request, context: Context) -> None:
    if TOKEN_SECRET not in context.secrets or len(context.secrets[TOKEN_SECRET]) < MIN_TOKEN:
        raise ApiError(
            503, "admin_token_not_set", f"set the plugin's secret {TOKEN_SECRET}, {MIN_TOKEN} characters or more"
        )
    given = request.headers.get(TOKEN_HEADER, "").encode(errors="surrogateescape")
    if not hmac.compare_digest(given, context.secrets[TOKEN_SECRET].encode()):
        raise ApiError(401, "token_invalid", f"send the plugin's secret {TOKEN_SECRET} in the header {TOKEN_HEADER}")


def _error(status: int, word: str, message: str) -> Response:
    return _json(status, {"error": {"code": word, "message": message}})


def _json(status: int, answer: Any) -> Response:
    headers = {"cache-control": "no-store"}
    if answer is None:
        return Response(status, headers)
    return Response(status, {**headers, "content-type": "application/json"}, msgspec.json.encode(answer))
