"""Events over HTTP: publish one, look them up."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import AwareDatetime, Field

from host.api.endpoint import TRACE, Answer, Call, Endpoint, PageQuery, View, read_bounded
from host.api.envelope import success, written
from host.api.errors import NotFoundError, UnsupportedMediaError
from host.control.access import Role
from host.routing.bus import Bus
from host.routing.event_log import EventLog, EventQuery, StoredEvent
from plugin_sdk.events import Event

BASE: Final = "/api/v1/events"
STRUCTURED: Final = "application/cloudevents+json"


class EventList(PageQuery):
    """Which events: `type` may hold `*`; `since` is included, `until` is not; times are of the append."""

    type: Annotated[str | None, Field(max_length=500)] = None
    source: Annotated[str | None, Field(max_length=2000)] = None
    subject: Annotated[str | None, Field(max_length=2000)] = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class StoredView(View):
    """An event in the log: its place, when it was appended, and the CloudEvent itself."""

    sequence: int
    appended_at: str
    event: dict[str, Any]


class Events:
    """The handlers."""

    def __init__(self, bus: Bus, log: EventLog, max_body: int) -> None:
        self._bus = bus
        self._log = log
        self._max_body = max_body
        # aiohttp's own read() is the quicker one, and bounded by itself at 1 MiB.
        self._direct = min(max_body, 2**20 - 1)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "POST",
                BASE,
                "publishEvent",
                "Publish a CloudEvent (structured); 202 once it is durable.",
                Role.OPERATOR,
                raw=self.publish,
                consumes=STRUCTURED,
                status=202,
                quiet=True,
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
        """Publish one structured CloudEvent."""
        if request.headers.get("Content-Type") != STRUCTURED:  # spelled just so by most; the others are parsed
            kind = request.content_type
            if kind not in {STRUCTURED, "application/json"}:
                raise UnsupportedMediaError(f"send a structured CloudEvent as {STRUCTURED}, not {kind[:100]}")
        length = request.content_length
        if length is None or length > self._direct:
            body = await read_bounded(request, self._max_body)
        else:
            body = await request.read()
        event = Event.from_json(body)
        appended = await self._bus.publish(event)
        return success(
            {
                "id": event.id,
                "source": event.source,
                "sequence": appended.sequence,
                "duplicate": appended.duplicate,
            },
            request[TRACE],
            status=202,
        )

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


def _view(stored: StoredEvent) -> StoredView:
    return StoredView(
        sequence=stored.sequence, appended_at=written(stored.appended_at), event=stored.event.attributes()
    )


def _stamp(instant: datetime | None) -> float | None:
    return None if instant is None else instant.timestamp()
