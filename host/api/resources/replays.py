"""Replays over HTTP: deliver events of the log to one plugin again."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from host.administration.replays import Replays, Wanted
from host.api.endpoint import Answer, Call, Endpoint, Instant, PageQuery, View
from host.api.envelope import rfc3339, written
from host.api.filter_language import FilterField, as_filters
from host.identity.access import Role
from host.routing.errors import ReplayNotFoundError
from host.routing.replay_store import ReplayRecord

BASE: Final = "/api/v1/replays"


class ReplayRequest(View):
    """What is to be delivered again: what was appended from `since` up to `until` and fits `filter`.

    Ends that are left out are open. With `dryRun`, only say what would be delivered.
    """

    plugin: Annotated[str, Field(max_length=64)]
    subscription: Annotated[str | None, Field(max_length=64)] = None
    since: Instant | None = None
    until: Instant | None = None
    filter: FilterField = None
    dry_run: bool = False


class ReplayList(PageQuery):
    """Which replays."""

    plugin: Annotated[str | None, Field(max_length=64)] = None


class ReplayView(View):
    """A replay; the counts are of outcomes of attempts so far. `id` is null and `state` is `planned` in a dry run."""

    id: int | None
    plugin: str
    subscription: str | None
    state: str
    since: str | None
    until: str | None
    first_sequence: int
    last_sequence: int
    filter: list[dict[str, Any]]
    actor: str
    created_at: str | None
    ended_at: str | None
    delivered: int
    dropped: int
    dead_lettered: int
    retried: int
    matching: Annotated[int | None, Field(description="In a dry run: events that would be delivered.")] = None
    complete: Annotated[bool | None, Field(description="In a dry run: whether all events were counted.")] = None
    sample: Annotated[list[str] | None, Field(description="In a dry run: ids of some of them.")] = None


class ReplayResource:
    """The handlers."""

    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "POST",
                BASE,
                "beginReplay",
                "Deliver events of the log to one plugin again.",
                Role.OPERATOR,
                self.begin,
                request=ReplayRequest,
                response=ReplayView,
                status=202,
                also=(200,),
            ),
            Endpoint(
                "GET",
                BASE,
                "listReplays",
                "List replays, the newest first.",
                Role.VIEWER,
                self.list,
                query=ReplayList,
                response=ReplayView,
                many=True,
            ),
            Endpoint(
                "GET", BASE + "/{id}", "showReplay", "Show a replay.", Role.VIEWER, self.show, response=ReplayView
            ),
            Endpoint(
                "DELETE",
                BASE + "/{id}",
                "cancelReplay",
                "End a replay before its time.",
                Role.OPERATOR,
                self.cancel,
                response=ReplayView,
            ),
        )

    async def begin(self, call: Call) -> Answer:
        """Begin one, or say what it would deliver."""
        body: ReplayRequest = call.body
        filters = as_filters(body.filter)
        wanted = Wanted(
            body.plugin,
            body.subscription,
            None if body.since is None else body.since.timestamp(),
            None if body.until is None else body.until.timestamp(),
            filters,
        )
        if not body.dry_run:
            record = await self._replays.start(wanted, actor=call.actor)
            return Answer(_view(record), headers={"Location": f"{BASE}/{record.id}"})
        forecast = await self._replays.forecast(wanted)
        view = ReplayView(
            id=None,
            plugin=body.plugin,
            subscription=body.subscription,
            state="planned",
            since=rfc3339(wanted.since),
            until=rfc3339(wanted.until),
            first_sequence=forecast.first,
            last_sequence=forecast.last,
            filter=[dict(one) for one in filters],
            actor=call.actor,
            created_at=None,
            ended_at=None,
            delivered=0,
            dropped=0,
            dead_lettered=0,
            retried=0,
            matching=forecast.matching,
            complete=forecast.complete,
            sample=list(forecast.sample),
        )
        return Answer(view, status=200, message="nothing was delivered: this is what would be")

    async def list(self, call: Call) -> Answer:
        """A page of them."""
        query: ReplayList = call.query
        found, total = await self._replays.all(query.plugin, query.offset, query.limit)
        return Answer.paged([_view(one) for one in found], query, total)

    async def show(self, call: Call) -> Answer:
        """One of them."""
        return Answer(_view(await self._replays.get(_id(call))))

    async def cancel(self, call: Call) -> Answer:
        """End it."""
        return Answer(_view(await self._replays.cancel(_id(call), actor=call.actor)))


def _id(call: Call) -> int:
    text = call.path("id")
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - 64 bits
        raise ReplayNotFoundError(text[:50])
    return int(text)


def _view(record: ReplayRecord) -> ReplayView:
    return ReplayView(
        id=record.id,
        plugin=record.plugin,
        subscription=record.subscription,
        state=record.state.value,
        since=rfc3339(record.since),
        until=rfc3339(record.until),
        first_sequence=record.first,
        last_sequence=record.last,
        filter=[dict(one) for one in record.filters],
        actor=record.actor,
        created_at=written(record.created_at),
        ended_at=rfc3339(record.ended_at),
        delivered=record.delivered,
        dropped=record.dropped,
        dead_lettered=record.dead_lettered,
        retried=record.retried,
    )
