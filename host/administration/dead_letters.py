"""Deciding on dead letters: one by one or all that fit, with a dry run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from host.observe.audit import Audit
from host.routing.event_log import DeadLetterRecord, EventLog, LetterQuery
from host.routing.router import Router
from plugin_sdk.events import Event
from plugin_sdk.filters import compile_filters

CHUNK: Final = 32
"""Letters that are read at once, with their events, and that one transaction decides on."""
MAX_PAGE_BYTES: Final = 8 * 2**20
"""Bytes of events on one page; the letters after them come without theirs."""
SAMPLE: Final = 20
Decision = Literal["retry", "discard"]


@dataclass(frozen=True, slots=True)
class Decided:
    """How many letters fitted (and were decided on, unless it was a dry run), and the ids of some of them."""

    count: int
    sample: tuple[int, ...]


class DeadLetters:
    """Looks at dead letters and decides on them."""

    def __init__(self, log: EventLog, router: Router, audit: Audit) -> None:
        self._log = log
        self._router = router
        self._audit = audit

    async def page(self, query: LetterQuery, offset: int, limit: int) -> tuple[list[DeadLetterRecord], int]:
        """A page of them, the newest first, and how many fit; in a large page, the last come without their events."""
        found, total = await self._log.dead_letters(query, offset, min(CHUNK, limit))
        page = _within(found, MAX_PAGE_BYTES)
        while page and len(page) < min(limit, total - offset):
            following = replace(query, below=page[-1].id)
            found, _ = await self._log.dead_letters(following, 0, min(CHUNK, limit - len(page)))
            if not found:
                break
            page += _within(found, MAX_PAGE_BYTES - sum(len(one.body) for one in page))
        return page, total

    async def get(self, letter: int) -> DeadLetterRecord | None:
        """One of them, or None."""
        found, _ = await self._log.dead_letters(LetterQuery(letter=letter), 0, 1)
        return found[0] if found else None

    async def decide(self, letter: int, decision: Decision, *, actor: str) -> DeadLetterRecord | None:
        """Deliver one again, with all its attempts before it, or discard it for good; None where there is none."""
        taken = await self._take([letter], decision)
        if not taken:
            return None
        detail = {"subscription": taken[0].subscription, "event": taken[0].event_id}
        await self._audit.record(
            actor=actor, action=f"dead-letter.{decision}", target=str(letter), detail=detail, outcome="done"
        )
        return taken[0]

    async def decide_all(
        self,
        query: LetterQuery,
        filters: Sequence[Mapping[str, Any]],
        decision: Decision,
        *,
        dry_run: bool,
        actor: str,
    ) -> Decided:
        """Decide on all that fit a query and a filter, as they stand when this begins.

        A host that stops in the middle has decided on some, and a second call decides on the rest.

        Raises:
            FilterError: a filter is malformed.
        """
        compiled = compile_filters(filters)
        count = 0
        sample: list[int] = []
        below: int | None = None
        while True:
            page, _ = await self._log.dead_letters(replace(query, below=below), 0, CHUNK)
            if not page:
                break
            below = page[-1].id
            fitting = [one.id for one in page if not filters or compiled.matches(Event.trusted(one.body))]
            if not dry_run:
                fitting = [one.id for one in await self._take(fitting, decision)]
            count += len(fitting)
            sample += fitting[: SAMPLE - len(sample)]
        if not dry_run:
            detail = {"plugin": query.plugin, "subscription": query.subscription, "type": query.type, "count": count}
            await self._audit.record(
                actor=actor,
                action=f"dead-letters.{decision}",
                target=query.plugin or "*",
                detail=detail,
                outcome="done",
            )
        return Decided(count, tuple(sample))

    async def _take(self, letters: Sequence[int], decision: Decision) -> list[DeadLetterRecord]:
        if decision == "discard":
            return await self._log.discard(letters)
        taken, waiting = await self._log.revive(letters)
        for subscription, count in waiting.items():
            consumer = self._router.consumer(subscription)
            if consumer is not None:
                consumer.retries_added(count)
        return taken


def _within(letters: Sequence[DeadLetterRecord], room: int) -> list[DeadLetterRecord]:
    """The letters, those without their event for whose there is no room."""
    kept: list[DeadLetterRecord] = []
    for one in letters:
        room -= len(one.body)
        kept.append(one if room >= 0 else replace(one, body=b""))
    return kept
