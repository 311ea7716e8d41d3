"""Events over HTTP: the rows of the table, and looking them up. How they are published is in `publishing.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, Instant, PageQuery, View
from host.api.envelope import written
from host.api.errors import NotFoundError
from host.api.resources.publishing import BASE, Publishing
from host.identity.access import Role
from host.routing.event_log import EventLog, EventQuery, StoredEvent
from plugin_sdk.event_http import STRUCTURED


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

    def __init__(self, publishing: Publishing, log: EventLog) -> None:
        self._publishing = publishing
        self._log = log

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "POST",
                BASE,
                "publishEvent",
                "Publish CloudEvents (structured, binary or batched); 202 once they are durable.",
                Role.OPERATOR,
                raw=self._publishing.publish,
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


def _view(stored: StoredEvent) -> StoredView:
    return StoredView(
        sequence=stored.sequence,
        appended_at=written(stored.appended_at),
        event=stored.event.attributes(),
        shortened=not stored.body,
    )


def _stamp(instant: datetime | None) -> float | None:
    return None if instant is None else instant.timestamp()
