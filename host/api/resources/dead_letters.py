"""Dead letters over HTTP: look at them, deliver them again, discard them."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, PageQuery, View
from host.api.envelope import written
from host.api.errors import NotFoundError
from host.control.access import Role
from host.observe.audit import Audit
from host.routing.event_log import DeadLetterRecord, EventLog
from host.routing.router import Router

BASE: Final = "/api/v1/dead-letters"


class LetterList(PageQuery):
    """Which dead letters."""

    plugin: Annotated[str | None, Field(max_length=64)] = None


class LetterView(View):
    """A delivery that was given up on, with its event."""

    id: int
    plugin: str
    subscription: str
    sequence: int
    event_id: str
    event_type: str
    event: dict[str, Any]
    reason: str
    traceback: str
    attempts: int
    at: str


class DeadLetters:
    """The handlers."""

    def __init__(self, log: EventLog, router: Router, audit: Audit) -> None:
        self._log = log
        self._router = router
        self._audit = audit

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "GET",
                BASE,
                "listDeadLetters",
                "List dead letters, the newest first.",
                Role.VIEWER,
                self.list,
                query=LetterList,
                response=LetterView,
                many=True,
            ),
            Endpoint(
                "POST",
                BASE + "/{id}/retry",
                "retryDeadLetter",
                "Deliver it again.",
                Role.OPERATOR,
                self.retry,
            ),
            Endpoint(
                "DELETE",
                BASE + "/{id}",
                "discardDeadLetter",
                "Discard it for good.",
                Role.OPERATOR,
                self.discard,
            ),
        )

    async def list(self, call: Call) -> Answer:
        """A page of dead letters."""
        query: LetterList = call.query
        found, total = await self._log.dead_letters(query.plugin, query.offset, query.limit)
        return Answer.paged([_view(one) for one in found], query, total)

    async def retry(self, call: Call) -> Answer:
        """Move it back to be delivered, with all its attempts before it."""
        letter = _found(await self._log.revive(_id(call)), call)
        consumer = self._router.consumer(letter.subscription)
        if consumer is not None:
            consumer.retries_changed()
        await self._note(call, "dead-letter.retry", letter)
        return Answer({"id": letter.id}, message="it will be delivered again")

    async def discard(self, call: Call) -> Answer:
        """Remove it."""
        letter = _found(await self._log.discard(_id(call)), call)
        await self._note(call, "dead-letter.discard", letter)
        return Answer({"id": letter.id}, message="discarded")

    async def _note(self, call: Call, action: str, letter: DeadLetterRecord) -> None:
        detail = {"subscription": letter.subscription, "event": letter.event_id}
        await self._audit.record(actor=call.actor, action=action, target=str(letter.id), detail=detail, outcome="done")


def _id(call: Call) -> int:
    text = call.path("id")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004 - 64 bits


def _found(letter: DeadLetterRecord | None, call: Call) -> DeadLetterRecord:
    if letter is None:
        raise NotFoundError(
            f"dead letter {call.path('id')} not found: it may have been decided already",
            code="dead_letter_not_found",
        )
    return letter


def _view(one: DeadLetterRecord) -> LetterView:
    return LetterView(
        id=one.id,
        plugin=one.plugin,
        subscription=one.subscription,
        sequence=one.sequence,
        event_id=one.event_id,
        event_type=one.event_type,
        event=msgspec.json.decode(one.body),
        reason=one.reason,
        traceback=one.traceback,
        attempts=one.attempts,
        at=written(one.at),
    )
