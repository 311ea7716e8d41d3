"""Dead letters over HTTP: look at them, deliver them again, discard them, one by one or all that fit."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from pydantic import Field

from host.administration.dead_letters import DeadLetters, Decision
from host.api.endpoint import Answer, Call, Endpoint, Instant, PageQuery, View
from host.api.envelope import written
from host.api.errors import BadRequestError, NotFoundError
from host.api.filter_language import FilterField, as_filters
from host.identity.access import Role
from host.routing.event_log import DeadLetterRecord, LetterQuery

BASE: Final = "/api/v1/dead-letters"

PluginId = Annotated[str | None, Field(max_length=64)]
Name = Annotated[str | None, Field(max_length=64)]
TypeGlob = Annotated[str | None, Field(max_length=500)]


class LetterList(PageQuery):
    """Which dead letters: `type` may hold `*`; `since` is included, `until` is not; `subscription` needs `plugin`."""

    plugin: PluginId = None
    subscription: Name = None
    type: TypeGlob = None
    since: Instant | None = None
    until: Instant | None = None


class LetterChoice(View):
    """Which dead letters to decide on: as in the list, and those whose event fits `filter`.

    With `dryRun`, only say how many there are.
    """

    plugin: PluginId = None
    subscription: Name = None
    type: TypeGlob = None
    since: Instant | None = None
    until: Instant | None = None
    filter: FilterField = None
    dry_run: bool = False


class AttemptView(View):
    """One attempt that failed."""

    attempt: int
    at: str
    duration_ms: float
    error: str


class LetterView(View):
    """A delivery that was given up on, with its event and every attempt.

    In a page of more than 8 MiB the last events are `shortened` to id and type; each is whole in its own letter.
    """

    id: int
    plugin: str
    subscription: str
    sequence: int
    event_id: str
    event_type: str
    event: dict[str, Any]
    shortened: bool
    reason: str
    traceback: str
    attempts: int
    history: list[AttemptView]
    at: str


class DecidedView(View):
    """How many dead letters fitted; `dryRun` says that nothing was decided. `sample` has the ids of some of them."""

    count: int
    dry_run: bool
    sample: list[int]


class DeadLetterResource:
    """The handlers."""

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        viewer, operator = Role.VIEWER, Role.OPERATOR
        return (
            Endpoint(
                "GET",
                BASE,
                "listDeadLetters",
                "List dead letters, the newest first.",
                viewer,
                self.list,
                query=LetterList,
                response=LetterView,
                many=True,
            ),
            Endpoint(
                "POST",
                BASE + "/retry",
                "retryDeadLetters",
                "Deliver all that fit again.",
                operator,
                self.retry_all,
                request=LetterChoice,
                response=DecidedView,
            ),
            Endpoint(
                "POST",
                BASE + "/discard",
                "discardDeadLetters",
                "Discard all that fit for good.",
                operator,
                self.discard_all,
                request=LetterChoice,
                response=DecidedView,
            ),
            Endpoint(
                "GET", BASE + "/{id}", "showDeadLetter", "Show a dead letter.", viewer, self.show, response=LetterView
            ),
            Endpoint(
                "POST",
                BASE + "/{id}/retry",
                "retryDeadLetter",
                "Deliver it again.",
                operator,
                self.retry,
            ),
            Endpoint(
                "DELETE",
                BASE + "/{id}",
                "discardDeadLetter",
                "Discard it for good.",
                operator,
                self.discard,
            ),
        )

    async def list(self, call: Call) -> Answer:
        """A page of dead letters."""
        query: LetterList = call.query
        found, total = await self._letters.page(_query(query), query.offset, query.limit)
        return Answer.paged([_view(one) for one in found], query, total)

    async def show(self, call: Call) -> Answer:
        """One of them."""
        return Answer(_view(_found(await self._letters.get(_id(call)), call)))

    async def retry(self, call: Call) -> Answer:
        """Move it back to be delivered, with all its attempts before it."""
        letter = _found(await self._letters.decide(_id(call), "retry", actor=call.actor), call)
        return Answer({"id": letter.id}, message="it will be delivered again")

    async def discard(self, call: Call) -> Answer:
        """Remove it."""
        letter = _found(await self._letters.decide(_id(call), "discard", actor=call.actor), call)
        return Answer({"id": letter.id}, message="discarded")

    async def retry_all(self, call: Call) -> Answer:
        """Move all that fit back to be delivered."""
        return await self._decide_all(call, "retry")

    async def discard_all(self, call: Call) -> Answer:
        """Remove all that fit."""
        return await self._decide_all(call, "discard")

    async def _decide_all(self, call: Call, decision: Decision) -> Answer:
        body: LetterChoice = call.body
        decided = await self._letters.decide_all(
            _query(body), as_filters(body.filter), decision, dry_run=body.dry_run, actor=call.actor
        )
        return Answer(DecidedView(count=decided.count, dry_run=body.dry_run, sample=list(decided.sample)))


def _query(given: LetterList | LetterChoice) -> LetterQuery:
    if given.subscription is not None and given.plugin is None:
        raise BadRequestError("a subscription has its name from its plugin: give the plugin, too", code="query_invalid")
    subscription = None if given.subscription is None else f"{given.plugin}/{given.subscription}"
    return LetterQuery(
        plugin=given.plugin,
        subscription=subscription,
        type=given.type,
        since=None if given.since is None else given.since.timestamp(),
        until=None if given.until is None else given.until.timestamp(),
    )


def _id(call: Call) -> int:
    text = call.path("id")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004 - 64 bits


def _found(letter: DeadLetterRecord | None, call: Call) -> DeadLetterRecord:
    if letter is None:
        raise NotFoundError(
            f"dead letter {call.path('id')[:50]} not found: it may have been decided already",
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
        event=msgspec.json.decode(one.body) if one.body else {"id": one.event_id, "type": one.event_type},
        shortened=not one.body,
        reason=one.reason,
        traceback=one.traceback,
        attempts=one.attempts,
        history=[
            AttemptView(
                attempt=attempt["attempt"],
                at=written(attempt["at"]),
                duration_ms=round(attempt["duration"] * 1000, 3),
                error=attempt["error"],
            )
            for attempt in msgspec.json.decode(one.history)
        ],
        at=written(one.at),
    )
