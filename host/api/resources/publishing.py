"""Publishing over HTTP: from a request, in whichever of the three modes it is, to events on the bus, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from aiohttp import web

from host.api.body import read_bounded
from host.api.endpoint import TRACE
from host.api.envelope import success
from host.api.errors import BadRequestError, BodyTooLargeError, UnsupportedMediaError
from host.errors import BusbarError
from host.routing.event_log import Appended
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


class Publisher(Protocol):
    """Where events go: the bus itself, or the way to it."""

    async def publish(self, event: Event) -> Appended:
        """As `Bus.publish`."""
        ...

    async def publish_many(self, events: Sequence[Event]) -> list[Appended | BusbarError]:
        """As `Bus.publish_many`."""
        ...


class Publishing:
    """The handler.

    Args:
        bus: Where events go.
        max_body: Bytes of one event.
    """

    def __init__(self, bus: Publisher, max_body: int) -> None:
        self._bus = bus
        self._max_body = max_body

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
