"""Endpoints as values: method, path, role, models, handler. What is in the table is served and documented."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from host.api.bodies import TOKEN
from host.api.body import read_bounded
from host.api.envelope import success
from host.api.errors import (
    BadRequestError,
    ForbiddenError,
    UnauthenticatedError,
    UnsupportedMediaError,
)
from host.identity.access import Role, Token, Tokens
from host.identity.peers import counted_as
from plugin_sdk.strict_json import MAX_DEPTH, StrictJsonError, loads

MAX_JSON: Final = 2**20
"""Bytes of a JSON body of the management API."""
MAX_BODY_DEPTH: Final = MAX_DEPTH + 2
"""How deep a body may nest: an event may stand in one, with data of its own depth."""
TRACE: Final[web.RequestKey[str]] = web.RequestKey("trace", str)
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LATEST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
PARTS: Final[web.RequestKey[dict[str, str]]] = web.RequestKey("parts", dict[str, str])
"""The named parts of the path."""


def _read(value: Any) -> datetime:
    """An instant as RFC 3339 writes it; pydantic would take numbers, dates and week dates, too."""
    if not (isinstance(value, str) and _INSTANT.fullmatch(value)):
        raise ValueError("it must be an RFC 3339 timestamp, such as '2026-11-20T10:00:00Z'")
    return datetime.fromisoformat(value.upper())


def _in_years(value: datetime) -> datetime:
    try:
        found = value.astimezone(UTC)
    except OverflowError:
        found = None
    if found is None or found > _LATEST:
        raise ValueError("it must lie in the years 1 to 9999, in UTC")
    return value


Instant = Annotated[datetime, BeforeValidator(_read), AfterValidator(_in_years)]
"""A time with an offset that can be written in UTC again, in every answer and row that it gets into."""


class View(BaseModel):
    """A model of the API: camelCase outside, frozen, and nothing unknown in it."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_enum_values=False
    )


class PageQuery(View):
    """Which page, and how many on it."""

    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    limit: Annotated[int, Field(ge=1, le=200)] = 50

    @property
    def offset(self) -> int:
        """How many come before this page."""
        return (self.page - 1) * self.limit


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers; the envelope is put around it."""

    data: Any = None
    status: int | None = None
    message: str | None = None
    pagination: Mapping[str, int] | None = None
    headers: Mapping[str, str] | None = None

    @classmethod
    def paged(cls, data: Any, query: PageQuery, total: int) -> Answer:
        """One page of a list of `total`."""
        pages = -(-total // query.limit)
        return cls(data, pagination={"page": query.page, "limit": query.limit, "total": total, "totalPages": pages})


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in and checked."""

    request: web.BaseRequest
    query: Any
    body: Any
    token: Token | None

    def path(self, name: str) -> str:
        """A part of the path."""
        return self.request[PARTS][name]

    @property
    def actor(self) -> str:
        """Who asks, for the audit trail."""
        return "anonymous" if self.token is None else f"token:{self.token.name}"


ANY: Final = "*"
ANY_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What `*` stands for in the table; TRACE and CONNECT are a server's own (RFC 9110, section 9.3)."""

Handler = Callable[[Call], Awaitable[Answer]]
RawHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table.

    Args:
        method: The HTTP method; `*` for any.
        path: With `{name}` for parts of it.
        operation: The operationId of the OpenAPI document.
        summary: One line for readers.
        handler: Serves it.
        role: Who may; None for everyone.
        query: Model of the query string.
        request: Model of the JSON body, or `dict` for any object.
        response: Model of the answer's data; `many` for a list of it.
        status: Of an answer that went well.
        also: Other statuses that such an answer may have, as where nobody waits for the outcome.
        form: Names of the parts of a multipart body, which the handler reads; beside `request`, either may come.
        raw: Gets the aiohttp request as it came and answers it whole: for what is no JSON in an envelope,
            and for the one path where every microsecond counts.
        consumes: The content type of a raw endpoint's body.
        produces: The content type of a raw endpoint's answer.
        quiet: Asked often: its requests are not logged.
    """

    method: str
    path: str
    operation: str
    summary: str
    role: Role | None
    handler: Handler | None = None
    query: type[View] | None = None
    request: type[BaseModel | dict[str, Any]] | None = None
    response: type[BaseModel] | None = None
    many: bool = False
    status: int = 200
    also: tuple[int, ...] = ()
    form: tuple[str, ...] = ()
    raw: RawHandler | None = None
    consumes: str = ""
    produces: str = ""
    quiet: bool = False


def authenticate(request: web.BaseRequest, tokens: Tokens, role: Role) -> Token:
    """The token that the request carries.

    Raises:
        UnauthenticatedError: none, or one that is unknown or has expired.
        TooManyAttemptsError: the same, of an address that has sent too many such.
        ForbiddenError: its role is not enough.
    """
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise UnauthenticatedError("send the header 'Authorization: Bearer <token>' with a token of this host")
    token = tokens.find(secret.strip())
    if token is None:
        tokens.guesses.wrong(counted_as(request.remote), secret)
        raise UnauthenticatedError("this token is unknown, revoked or expired: make another")
    request[TOKEN] = token
    if not token.role.covers(role):
        raise ForbiddenError(f"this needs the role {role.value}, and the token has {token.role.value}")
    return token


def served(endpoint: Endpoint, tokens: Tokens) -> RawHandler:
    """The aiohttp handler of an endpoint: who asks, what they send, then the handler."""
    role = endpoint.role
    if endpoint.raw is not None:
        raw = endpoint.raw
        if role is None:
            return raw
        needed = role

        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            authenticate(request, tokens, needed)
            return await raw(request)

        return guarded

    handler = endpoint.handler
    if handler is None:
        raise TypeError(f"{endpoint.operation} has no handler")

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        token = None if role is None else authenticate(request, tokens, role)
        query = _query(endpoint, request)
        body = await _body(endpoint, request)
        answer = await handler(Call(request, query, body, token))
        return success(
            answer.data,
            request[TRACE],
            status=answer.status or endpoint.status,
            message=answer.message,
            pagination=answer.pagination,
            headers=answer.headers,
        )

    return serve


def _query(endpoint: Endpoint, request: web.BaseRequest) -> Any:
    model = endpoint.query
    found = dict(request.query)
    if model is None:
        if found:
            raise BadRequestError(f"this takes no query, and got '{min(found)}'", code="query_invalid")
        return None
    if len(found) != len(request.query):
        raise BadRequestError("a name stands twice in the query", code="query_invalid")
    return validated(model, found, "query_invalid", "the query is not what this takes")


async def _body(endpoint: Endpoint, request: web.BaseRequest) -> Any:
    model = endpoint.request
    if model is None:
        return None
    if endpoint.form and request.content_type == "multipart/form-data":
        return None
    if request.content_type != "application/json":
        wanted = "application/json or multipart/form-data" if endpoint.form else "application/json"
        raise UnsupportedMediaError(f"send {wanted}, not {request.content_type[:100]}")
    raw = await read_bounded(request, MAX_JSON)
    try:
        found = loads(raw or b"{}", depth=MAX_BODY_DEPTH)
    except StrictJsonError as error:
        raise BadRequestError(f"the body is no strict JSON: {error}", code="body_invalid") from None
    if not isinstance(found, dict):
        raise BadRequestError("the body must be a JSON object", code="body_invalid")
    if not issubclass(model, BaseModel):
        return found
    # As JSON and strictly: a number is no boolean there, and a text no number.
    return validated(model, raw or b"{}", "body_invalid", "the body is not what this takes")


def header_text(value: str) -> str:
    """A header's value as text that can be handed on.

    Bytes that are no UTF-8 come out of the parser as surrogates, which nothing can encode; they are read as latin-1,
    which is what headers were before (RFC 9110, section 5.5).
    """
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")


def validated(model: type[BaseModel], found: dict[str, Any] | bytes, code: str, message: str) -> Any:
    """What was found as the model: names and texts of a query, or JSON that was read before.

    Raises:
        BadRequestError: it is not what the model takes, with a sentence for each field.
    """
    try:
        return (
            model.model_validate_json(found, strict=True) if isinstance(found, bytes) else model.model_validate(found)
        )
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()]
        raise BadRequestError(f"{message}: {lines[0]}", errors=lines, code=code) from None
