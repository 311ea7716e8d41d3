"""Events over HTTP: publish them, look them up."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, cast

from aiohttp import web
from pydantic import Field

from host.api.body import read_bounded
from host.api.endpoint import TRACE, Answer, Call, Endpoint, Instant, PageQuery, View
from host.api.envelope import success, written
from host.api.errors import BadRequestError, BodyTooLargeError, NotFoundError, UnsupportedMediaError
from host.errors import BusbarError
from host.identity.access import Role
from host.routing.bus import Bus
from host.routing.event_log import Appended, EventLog, EventQuery, StoredEvent
from plugin_sdk.errors import InvalidEventError
from plugin_sdk.event_http import (
    MAX_BATCH,
    PREFIX,
    STRUCTURED,
    UnknownFormatError,
    is_batch,
    is_structured,
    media_type,
    parse_batch,
    parse_binary,
)
from plugin_sdk.events import Event
from plugin_sdk.strict_json import TooManyItemsError

BASE: Final = "/api/v1/events"
BATCH_BODIES: Final = 8
"""A batch may have so many times the bytes of an event."""


class EventList(PageQuery):
    """Which events: `type` may hold `*`; `since` is included, `until` is not; times are of the append."""

    type: Annotated[str | None, Field(max_length=500)] = None
    source: Annotated[str | None, Field(max_length=2000)] = None
    subject: Annotated[str | None, Field(max_length=2000)] = None
    since: Instant | None = None
    until: Instant | None = None


class StoredView(View):
    """An event in the log: its place, when it was appended, and the CloudEvent itself.

    In a page of more than 8 MiB the last events are `shortened` to their main attributes; each is whole by its id.
    """

    sequence: int
    appended_at: str
    event: dict[str, Any]
    shortened: bool


class Events:
    """The handlers."""

    def __init__(self, bus: Bus, log: EventLog, max_body: int) -> None:
        self._bus = bus
        self._log = log
        self._max_body = max_body

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "POST",
                BASE,
                "publishEvent",
                "Publish CloudEvents (structured, binary or batched); 202 once they are durable.",
                Role.OPERATOR,
                raw=self.publish,
                consumes=STRUCTURED,
                status=202,
                quiet=True,
            ),
            Endpoint(
                "OPTIONS",
                BASE,
                "agreeToEvents",
                "Which methods there are; with WebHook-Request-Origin, that a sender may send here.",
                Role.OPERATOR,
                raw=self.agree,
                produces="text/plain",
            ),
            Endpoint(
                "GET",
                BASE,
                "listEvents",
                "List events of the log, the newest first.",
                Role.VIEWER,
                self.list,
                query=EventList,
                response=StoredView,
                many=True,
            ),
            Endpoint(
                "GET",
                BASE + "/{id}",
                "showEvent",
                "Show the event with this id (the newest, where several sources used it).",
                Role.VIEWER,
                self.show,
                response=StoredView,
            ),
        )

    async def publish(self, request: web.BaseRequest) -> web.StreamResponse:
        """Publish CloudEvents in whichever of the three modes they come."""
        content_type = request.headers.get("Content-Type")
        if content_type == STRUCTURED:  # spelled just so by most; the others are parsed
            event = Event.from_json(await read_bounded(request, self._max_body))
        else:
            media = media_type(content_type)
            try:
                if is_batch(media):
                    return await self._publish_batch(request)
                structured = is_structured(media)
            except UnknownFormatError as error:
                raise UnsupportedMediaError(str(error)) from None
            body = await read_bounded(request, self._max_body)
            if structured or (media == "application/json" and not _has_attributes(request)):
                event = Event.from_json(body)
            else:
                event = parse_binary(request.headers.items(), content_type, body)
        appended = await self._bus.publish(event)
        return success(_accepted(event, appended), request[TRACE], status=202)

    async def _publish_batch(self, request: web.BaseRequest) -> web.StreamResponse:
        """Publish each event of a batch by itself; one that is refused does not keep the others."""
        try:
            items = parse_batch(await read_bounded(request, BATCH_BODIES * self._max_body))
        except TooManyItemsError as error:
            raise BodyTooLargeError(
                f"a batch has at most {MAX_BATCH} events, not {error.count}: send several"
            ) from None
        events = [one for one in items if isinstance(one, Event)]
        taken = await self._bus.publish_many(events)
        refusals = [one for one in taken if isinstance(one, BusbarError)]
        if taken and len(refusals) == len(taken):
            # That the host cannot take them now outweighs that some of them are malformed: the sender is to come back.
            raise min(refusals, key=lambda one: one.retry_after is None)
        answers = iter(taken)
        results = [_result(one, None if isinstance(one, InvalidEventError) else next(answers)) for one in items]
        if results and all("code" in one for one in results):
            raise BadRequestError(
                f"no event of the batch was taken: {results[0]['message']}",
                errors=[f"{at}: {one['message']}" for at, one in enumerate(results)][:100],
                code="event_invalid",
            )
        return success(results, request[TRACE], status=202)

    async def agree(self, request: web.BaseRequest) -> web.StreamResponse:
        """Say which methods there are, and to a sender of web-hooks that it may (CloudEvents web hooks, section 4)."""
        headers = {"Allow": "GET, OPTIONS, POST"}
        origin = request.headers.get("WebHook-Request-Origin")
        if origin is not None:
            headers["WebHook-Allowed-Origin"] = origin
            headers["WebHook-Allowed-Rate"] = request.headers.get("WebHook-Request-Rate", "*")
        return web.Response(status=200, headers=headers, text="")

    async def list(self, call: Call) -> Answer:
        """A page of the log."""
        query: EventList = call.query
        found, total = await self._log.query(
            EventQuery(query.type, query.source, query.subject, _stamp(query.since), _stamp(query.until)),
            query.offset,
            query.limit,
        )
        return Answer.paged([_view(one) for one in found], query, total)

    async def show(self, call: Call) -> Answer:
        """One event."""
        found = await self._log.find(call.path("id"))
        if not found:
            raise NotFoundError("no event of this id is in the log (any more)", code="event_not_found")
        return Answer(_view(found[-1]))


def _result(item: Event | InvalidEventError, found: Appended | BusbarError | None) -> dict[str, Any]:
    """What became of one event of a batch."""
    if isinstance(item, InvalidEventError):
        return {"status": 400, "code": item.code, "message": str(item)}
    if isinstance(found, Appended):
        return {"status": 202, **_accepted(item, found)}
    error = cast("BusbarError", found)
    return {"status": error.kind.value, "code": error.word, "message": error.message}


def _accepted(event: Event, appended: Appended) -> dict[str, Any]:
    return {
        "id": event.id,
        "source": event.source,
        "sequence": appended.sequence,
        "duplicate": appended.duplicate,
    }


def _has_attributes(request: web.BaseRequest) -> bool:
    """Whether a request says in its headers that it is in binary mode."""
    return any(name.lower().startswith(PREFIX) for name in request.headers)


def _view(stored: StoredEvent) -> StoredView:
    return StoredView(
        sequence=stored.sequence,
        appended_at=written(stored.appended_at),
        event=stored.event.attributes(),
        shortened=not stored.body,
    )


def _stamp(instant: datetime | None) -> float | None:
    return None if instant is None else instant.timestamp()
