"""Trying filters out over HTTP: does this event match, and which clause failed."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, View
from host.api.errors import BadRequestError
from host.api.filter_language import FilterField, as_filters
from host.identity.access import Role
from host.routing.filters import Filter
from plugin_sdk.description import TYPE_GLOB
from plugin_sdk.events import Event
from plugin_sdk.filters import compile_filters

BASE: Final = "/api/v1/filters/test"


class FilterTest(View):
    """A filter, type patterns (`*` for any characters), and an event as structured JSON."""

    filter: FilterField = None
    types: Annotated[list[str], Field(max_length=256)] = ["*"]
    event: dict[str, Any]


class ClauseView(View):
    """A clause that does not hold: its position, and why."""

    path: str
    reason: str


class FilterAnswer(View):
    """Whether the event matches; `failed` has every clause that keeps it from matching."""

    matches: bool
    failed: list[ClauseView]


class FilterTests:
    """The handler."""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "POST",
                BASE,
                "testFilter",
                "Say whether an event matches a filter, and which clause failed.",
                Role.VIEWER,
                self.test,
                request=FilterTest,
                response=FilterAnswer,
            ),
        )

    async def test(self, call: Call) -> Answer:
        """Compile the filter as an install would, and try the event."""
        body: FilterTest = call.body
        for glob in body.types:
            if not TYPE_GLOB.fullmatch(glob):
                raise BadRequestError(
                    f"types: '{glob}' is no event type: write dotted words, with * for any characters",
                    code="body_invalid",
                )
        compiled = compile_filters(as_filters(body.filter))
        event = Event.from_attributes(body.event)
        # In a thread: to explain takes far longer than to match, on large events for seconds.
        found = await asyncio.to_thread(compiled.explain, event)
        failed = [ClauseView(path=one.path, reason=one.reason) for one in found]
        if not Filter(body.types).takes_type(event.type):
            fits = ", ".join(map(repr, body.types))
            failed.insert(0, ClauseView(path="types", reason=f"type is {event.type!r}, which fits none of {fits}"))
        return Answer(FilterAnswer(matches=not failed, failed=failed))
