"""Fires what is due: many schedules in one transaction, each firing an event in the log.

The instants are worked out in a thread before, from what was read, and so is the operation that the log's writer gets;
its transaction only writes, and only where a schedule still stands as it was read. A firing is appended in the
transaction that moves its schedule on. So a crash fires it once or leaves it due, and two looks at one instant fire it
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from host.errors import BusbarError
from host.routing.errors import EventConflictError
from host.routing.subscriptions import FIRING_TYPE, firing_source
from host.scheduling import firing_store, schedule_store
from host.scheduling.errors import ScheduleNotFoundError
from host.scheduling.firing_store import FiringRecord
from host.scheduling.misfires import CameDue, Due, Reason, Skipped, came_due
from host.scheduling.overlaps import FiringCancels, FiringOutcomes, admit
from host.scheduling.rules import dispatch_at, written
from host.scheduling.schedule_store import ScheduleRecord
from host.storage.database import Database
from host.storage.log_writer.firings import ByHand, Fire, Move, Moves, Skip
from plugin_sdk.events import Event, new_event

BATCH: Final = 256
"""Schedules that one transaction moves on; some 30 ms of the writer."""

_log = structlog.get_logger(__name__)


class LogOperations(Protocol):
    """A log that executes operations together with the events that they append."""

    async def operate(self, name: str, arguments: Any, events: Sequence[Event]) -> Any:
        """Execute a named operation, which names events by their place; what it answers."""
        ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """What came due of a schedule, or why that cannot be said."""

    known: ScheduleRecord
    came: CameDue | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Move:
    """What is to be written of a schedule."""

    known: ScheduleRecord
    moved: ScheduleRecord
    fire: tuple[Due, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    settled: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Running:
    """The firings of one schedule that are not settled, and those that turned out to be."""

    unsettled: tuple[int, ...] = ()
    settled: frozenset[int] = field(default_factory=frozenset)


class Dispatcher:
    """Fires schedules.

    Args:
        database: Where they are.
        log: Gets the firings.
        outcomes: Says which earlier firings are not settled.
        cancels: Ends deliveries for `cancel-previous`; without it they go on beside the new ones.
    """

    def __init__(
        self, database: Database, log: LogOperations, outcomes: FiringOutcomes, cancels: FiringCancels | None
    ) -> None:
        self._database = database
        self._log = log
        self._outcomes = outcomes
        self._cancels = cancels
        # A thread of its own: the loop's are also for plugins in the host's process, which may hold all of them.
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="schedules")

    def close(self) -> None:
        """Let go of the thread; nothing may be fired after."""
        self._planner.shutdown()

    async def fire_due(self, now: float) -> int:
        """Fire whatever is due at `now`, waiting firings among it; how many schedules moved on.

        Safe to call at any time and any number of times. A schedule whose rule cannot be evaluated is marked and
        fires no more; the others go on.

        Raises:
            StorageBusyError, StorageFailedError: what is not fired yet is still due.
        """
        moved = await self._in_batches(lambda _: schedule_store.due(self._database, now, BATCH), now)
        return moved + await self._in_batches(
            lambda after: schedule_store.queued(self._database, now, after, BATCH), now, walk=True
        )

    async def fire_by_hand(self, record: ScheduleRecord, now: float) -> FiringRecord:
        """Fire a schedule now, beside its rule; a firing that the log has already is noted once.

        Raises:
            ScheduleNotFoundError: it is gone.
            EventConflictError: another event stands under the firing's id.
        """
        event = _event(record, now, by_hand=True)
        fire = _fire(record, 0, event, Due(now, Reason.BY_HAND), now)
        fired = await self._log.operate("fire by hand", ByHand(now, record.id, fire), [event])
        if fired is None:
            raise EventConflictError(event.source, event.id)
        if not fired:
            raise ScheduleNotFoundError(record.id)
        return FiringRecord(
            due=fire.due,
            fired_at=now,
            event_id=event.id,
            by_hand=True,
            reason=Reason.BY_HAND,
            lateness=fire.lateness,
        )

    # -- a batch

    async def _in_batches(
        self, read: Callable[[str], Awaitable[list[ScheduleRecord]]], now: float, *, walk: bool = False
    ) -> int:
        """Dispatch batch after batch; `walk` for what stays where it is, and is read on from its last id."""
        total, after = 0, ""
        while records := await read(after):
            moved = await self._dispatch(records, now)
            total += moved
            if len(records) < BATCH or not (moved or walk):
                break
            after = records[-1].id
        return total

    async def _dispatch(self, records: Sequence[ScheduleRecord], now: float) -> int:
        plans = await asyncio.get_running_loop().run_in_executor(self._planner, _planned, records, now)
        running = await self._running([plan for plan in plans if not plan.error])
        moves = [move for plan in plans if (move := self._move(plan, running.get(plan.known.id, _Running()), now))]
        if not moves:
            return 0
        loop = asyncio.get_running_loop()
        asked, events = await loop.run_in_executor(self._planner, _asked, moves, now)
        answers = await self._log.operate("fire", asked, events)
        for move, (moved, conflicts) in zip(moves, answers, strict=True):
            if moved and move.moved.error:
                _log.error("schedule_broken", schedule=move.known.id, error=move.moved.error)
            for row in conflicts:
                _log.error("firing_conflicts", schedule=move.known.id, event_id=events[row].id)
        return sum(moved for moved, _ in answers)

    async def _running(self, plans: Sequence[_Plan]) -> dict[str, _Running]:
        """What runs of each schedule whose policy depends on it."""
        firing = {plan.known.id: plan for plan in plans if plan.came is not None or plan.known.queued_due is not None}
        if not firing:
            return {}
        counts = await firing_store.count_open(self._database, list(firing))
        asked = [key for key, counted in counts.items() if _must_ask(firing[key], counted)]
        if not asked:
            return {}
        found = await firing_store.open_firings(self._database, asked)
        by_plugin: dict[str, list[str]] = {}
        for key in found:
            by_plugin.setdefault(firing[key].known.plugin, []).append(key)
        answers: dict[str, _Running] = {}
        for plugin, keys in by_plugin.items():
            unsettled = await self._outcomes.unsettled(plugin, {one for key in keys for one in found[key]})
            for key in keys:
                left = tuple(one for one in found[key] if one in unsettled)
                answers[key] = _Running(left, frozenset(found[key]) - unsettled)
        return answers

    def _move(self, plan: _Plan, running: _Running, now: float) -> _Move | None:
        known, came = plan.known, plan.came
        if plan.error:
            return _Move(known, replace(known, error=plan.error))
        if came is None and known.queued_due is None:
            return None
        admitted = admit(known.schedule, len(running.unsettled), known.queued_due, () if came is None else came.fire)
        if came is None and admitted.queued == known.queued_due:
            return None
        if admitted.cancel:
            self._cancel(known, running.unsettled)
        moved = replace(known, queued_due=admitted.queued)
        if came is not None:
            moved = replace(moved, next_due=came.next_due, seen=came.seen)
        if admitted.fire:
            moved = replace(moved, last_due=admitted.fire[-1].due, last_fired=now)
        skipped = (*(() if came is None else came.skipped), *admitted.skipped)
        return _Move(known, moved, admitted.fire, skipped, running.settled)

    def _cancel(self, record: ScheduleRecord, sequences: Sequence[int]) -> None:
        for sequence in sequences:
            if self._cancels is None or not self._cancels.cancel(record.plugin, sequence):
                _log.warning("firing_not_cancelled", schedule=record.id, sequence=sequence)


def _asked(moves: Sequence[_Move], now: float) -> tuple[Moves, list[Event]]:
    """In the planner's thread: everything that was decided, as the log's writer executes it."""
    events: list[Event] = []
    return Moves(now, Reason.CONFLICT, [_as_asked(move, now, events) for move in moves]), events


def _as_asked(move: _Move, now: float, events: list[Event]) -> Move:
    known, moved = move.known, move.moved
    decided: list[Fire | Skip] = []
    instants: list[Due | Skipped] = [*move.fire, *move.skipped]
    for one in sorted(instants, key=_instant):
        if isinstance(one, Skipped):
            decided.append(firing_store.skip_of(one, _lateness(known, one.first, now)))
            continue
        event = _event(known, one.due, by_hand=one.reason is Reason.BY_HAND)
        decided.append(_fire(known, len(events), event, one, now))
        events.append(event)
    return Move(
        schedule=known.id,
        next_due=moved.next_due,
        dispatch_at=moved.dispatch_at,
        seen=moved.seen,
        queued_due=moved.queued_due,
        last_due=moved.last_due,
        last_fired=moved.last_fired,
        error=moved.error,
        known_next_due=known.next_due,
        known_queued_due=known.queued_due,
        known_anchor=known.anchor,
        settled=sorted(move.settled),
        decided=decided,
    )


def _event(record: ScheduleRecord, due: float, *, by_hand: bool) -> Event:
    text = written(due)
    return new_event(
        FIRING_TYPE,
        source=firing_source(record.plugin),
        subject=record.name,
        id=f"{record.id}/{text}" + ("/by-hand" if by_hand else ""),
        time=datetime.fromtimestamp(due, UTC),
        data={"plugin": record.plugin, "schedule": record.name, "due": text},
    )


def _fire(record: ScheduleRecord, row: int, event: Event, one: Due, now: float) -> Fire:
    by_hand = one.reason is Reason.BY_HAND
    return Fire(row, written(one.due), event.id, by_hand, one.reason, _lateness(record, one.due, now))


def _planned(records: Sequence[ScheduleRecord], now: float) -> list[_Plan]:
    """In the planner's thread: what came due of each schedule."""
    return [_plan(record, now) for record in records]


def _plan(record: ScheduleRecord, now: float) -> _Plan:
    if record.error and record.queued_due is None:
        return _Plan(record, error=record.error)
    if record.error or record.next_due is None:
        return _Plan(record)
    try:
        came = came_due(
            record.id, record.schedule, record.next_due, now, anchor=record.anchor, adopted_at=record.adopted_at
        )
    except BusbarError as error:
        return _Plan(record, error=error.message)
    except Exception as error:  # noqa: BLE001 - whatever one rule does to its libraries, the others still fire
        _log.exception("rule_not_evaluated", schedule=record.id)
        return _Plan(record, error=f"the rule cannot be evaluated ({type(error).__name__}: {error})")
    return _Plan(record, came)


def _must_ask(plan: _Plan, counted: int) -> bool:
    """Whether the policy's decision hangs on which of the `counted` firings are settled."""
    schedule = plan.known.schedule
    if schedule.overlap != "allow":
        return True
    due = 0 if plan.came is None else len(plan.came.fire)
    return counted + due > schedule.max_running


def _lateness(record: ScheduleRecord, due: float, now: float) -> float:
    return round(max(0.0, now - dispatch_at(record.id, due, record.schedule.jitter)), 3)


def _instant(one: Due | Skipped) -> float:
    return one.due if isinstance(one, Due) else one.first
