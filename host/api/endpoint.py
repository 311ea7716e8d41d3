"""Endpoints as values: method, path, role, models, handler. What is in the table is served and documented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from host.api.bodies import BODIES
from host.api.envelope import success
from host.api.errors import (
    BadRequestError,
    BodyTooLargeError,
    ForbiddenError,
    UnauthenticatedError,
    UnsupportedMediaError,
)
from host.control.access import Role, Token, Tokens

MAX_JSON: Final = 2**20
"""Bytes of a JSON body of the management API."""
TRACE: Final[web.RequestKey[str]] = web.RequestKey("trace", str)
TOKEN: Final[web.RequestKey[Token]] = web.RequestKey("token", Token)
PARTS: Final[web.RequestKey[dict[str, str]]] = web.RequestKey("parts", dict[str, str])
"""The named parts of the path."""


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
    form: tuple[str, ...] = ()
    raw: RawHandler | None = None
    consumes: str = ""
    produces: str = ""
    quiet: bool = False


def authenticate(request: web.BaseRequest, tokens: Tokens, role: Role) -> Token:
    """The token that the request carries.

    Raises:
        UnauthenticatedError: none, or one that is unknown or has expired.
        ForbiddenError: its role is not enough.
    """
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise UnauthenticatedError("send the header 'Authorization: Bearer <token>' with a token of this host")
    token = tokens.find(secret.strip())
    if token is None:
        raise UnauthenticatedError("this token is unknown, revoked or expired: make another")
    if not token.role.covers(role):
        raise ForbiddenError(f"this needs the role {role.value}, and the token has {token.role.value}")
    request[TOKEN] = token
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
    return _validated(model, found, "query_invalid", "the query is not what this takes")


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
        found = msgspec.json.decode(raw or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is no JSON: {error}", code="body_invalid") from None
    if not isinstance(found, dict):
        raise BadRequestError("the body must be a JSON object", code="body_invalid")
    if not issubclass(model, BaseModel):
        return found
    return _validated(model, found, "body_invalid", "the body is not what this takes")


def header_text(value: str) -> str:
    """A header's value as text that can be handed on.

    Bytes that are no UTF-8 come out of the parser as surrogates, which nothing can encode; they are read as latin-1,
    which is what headers were before (RFC 9110, section 5.5).
    """
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")


async def read_bounded(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes.

    Raises:
        BodyTooLargeError: it has more.
        BodiesBusyError: too many bytes are being received in other requests.
    """
    if (request.content_length or 0) <= limit:
        body = bytearray()
        with request[BODIES].receiving(known=TOKEN in request) as received:
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    break
                received.grown(len(body))
            else:
                return bytes(body)
    raise BodyTooLargeError(f"the body has more than {limit} bytes")


def _validated(model: type[BaseModel], found: dict[str, Any], code: str, message: str) -> Any:
    try:
        return model.model_validate(found)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()]
        raise BadRequestError(f"{message}: {lines[0]}", errors=lines, code=code) from None
