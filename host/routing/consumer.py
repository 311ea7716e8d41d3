"""A consumer: one subscription following the log, delivering through the guard, settling what comes of it.

It is fed from memory by the commit that just happened while it keeps up, and reads batches from the log
while it does not; both ways are bounded. An event that fails steps aside into the retry table, so the
ones behind it go on, unless the subscription asks for order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from host.errors import BusbarError
from host.routing.admission import Admission, Target
from host.routing.attempts import Attempts
from host.routing.event_log import EventLog, Outcome, PendingRetry, Settlement, StoredEvent
from host.routing.firings import Firings
from host.routing.guard import BegunCall, Guard, Permit
from host.routing.lanes import Lanes
from host.routing.progress import Progress
from host.routing.router import Router
from host.routing.settlements import Settlements
from host.routing.subscriptions import SCHEDULES, BoundSubscription
from plugin_sdk.clock import Clock

LIVE_EVENTS: Final = 1024
"""Events held in memory for a consumer that keeps up; one more and it reads from the log instead."""
READ_EVENTS: Final = 256
READ_RETRY_SECONDS: Final = 1.0
MAX_PARKED: Final = 1024
"""Events that wait in memory behind others of their lane; with more the consumer reads no further."""
MAX_AHEAD: Final = 65_536
"""Events settled above the cursor; with more the consumer waits for the one that holds the cursor."""
MAX_RETRIES: Final = 10_000
"""Deliveries of one subscription that wait for their next attempt; with more it takes no new event."""

_log = structlog.get_logger(__name__)


class Consumer:
    """Delivers the events of one subscription.

    Args:
        subscription: What it takes, and by which policy.
        log: Where events, cursors and retries are.
        router: Offers new events.
        settlements: Takes the outcomes.
        guard: Stands around every call; its bulkhead bounds what is in flight.
        target: The plugin's runtime.
        clock: For due times.
        rng: For the jitter of retries.
        note_first: Write each attempt down before the hook is called, because the hook could take the
            host down with it (an inline runtime).
        max_dead_letters: How many dead letters of the plugin are kept.
        max_letter_bytes: What they may weigh together.
        stretch: The first and the last sequence it delivers, for a replay: it ends once all of them are settled.
            None for one that follows the log.
        ended: Called when it ended.
    """

    def __init__(
        self,
        subscription: BoundSubscription,
        *,
        log: EventLog,
        router: Router,
        settlements: Settlements,
        guard: Guard,
        target: Target,
        clock: Clock,
        rng: random.Random,
        note_first: bool = False,
        max_dead_letters: int = 10_000,
        max_letter_bytes: int = 128 * 2**20,
        stretch: tuple[int, int] | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.subscription = subscription
        self.key = subscription.id
        self._events = log
        self._router = router
        self._settlements = settlements
        self._guard = guard
        self._clock = clock
        self._note_first = note_first
        self._first = None if stretch is None else stretch[0]
        self._last = None if stretch is None else stretch[1]
        self._ended = ended
        self._admission = Admission(subscription, settlements=settlements, guard=guard, target=target, clock=clock)
        self._attempts = Attempts(
            subscription,
            guard=guard,
            target=target,
            clock=clock,
            rng=rng,
            letters_full=lambda: (
                log.kept_letters(subscription.plugin) >= max_dead_letters
                or log.letter_bytes(subscription.plugin) >= max_letter_bytes
            ),
        )
        self._firings = Firings(self._attempts)
        self._lanes = Lanes(subscription.policy.order, subscription.policy.at_failure)
        self._progress = Progress(0)
        self._queue: deque[StoredEvent] = deque()
        self._fitting = False  # whether the queue holds only what the filter takes: what the router offered
        self._live = False
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        self._retries_changed = asyncio.Event()
        self._waiting_retries = 0
        self._retrying: set[int] = set()
        self._just_written: set[int] = set()
        self._queued: set[asyncio.Task[None] | None] = set()
        self._feeders: list[asyncio.Task[None]] = []
        self._begun: dict[int, BegunCall] = {}
        self._pumping = False
        self._group: asyncio.TaskGroup | None = None
        self._turn = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    # -- life

    async def start(self) -> None:
        """Take up the cursor where it stands and follow the log; a new subscription starts at its end."""
        start = self._router.dispatched if self._first is None else self._first - 1
        holds = self.subscription.policy.behind == "hold"
        position = await self._events.cursor(self.key, start=start, holds=holds)
        self._progress = Progress(position, await self._events.ahead(self.key))
        self._waiting_retries = await self._events.waiting_retries(self.key)
        if self._lanes.blocks:
            for stored in await self._events.waiting_events(self.key, MAX_RETRIES):
                self._lanes.occupy(stored)
        self._settlements.attach(self, position)
        if self._last is None:
            self._router.attach(self)
        self._task = asyncio.create_task(self._run(), name=f"consumer {self.key}")
        self._task.add_done_callback(_complain)

    async def stop(self, grace: float) -> None:
        """Take nothing more, give deliveries in flight `grace` seconds to end, and write the cursor.

        What does not end in time is cancelled; it counts for nothing and is delivered again.
        """
        self._stopping = True
        self._group = None
        self._position()
        # From here on the router passes events by that are not for this consumer to count as read.
        self._live = False
        self._router.detach(self)
        for waiting in (*self._feeders, *self._queued):
            if waiting is not None:
                waiting.cancel()
        if self._task is not None:
            ended = asyncio.get_running_loop().time() + grace
            done, _ = await asyncio.wait((self._task,), timeout=grace)
            if not done:
                self._task.cancel()
                await asyncio.wait((self._task,))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ended):
                    await self._none_begun()
        for begun in tuple(self._begun.values()):
            begun.abort()
        self._begun.clear()
        self._queue.clear()  # hooks that do not end hold on to their consumer, and with it to all that is queued
        await self._settlements.detach(self)

    async def _none_begun(self) -> None:
        """Wait until every delivery that goes on without a task has ended."""
        while self._begun:
            self._settled.clear()
            await self._settled.wait()

    @property
    def lag(self) -> int:
        """How many events of the log are not settled for this subscription, matching or not."""
        end = self._router.dispatched if self._last is None else self._last
        return max(0, end - self._position())

    @property
    def in_flight(self) -> int:
        """Deliveries taken from the log and not settled."""
        return self._progress.outstanding

    @property
    def waiting_retries(self) -> int:
        """Deliveries that wait for their next attempt."""
        return self._waiting_retries

    def supersede(self, sequence: int) -> None:
        """Drop the delivery of a firing: cancelled where it runs, not tried (again) where it waits."""
        self._firings.supersede(sequence)

    # -- what router and settlements call

    def offer(self, stored: StoredEvent) -> None:
        """A new event that the filter takes; ignored while this consumer reads from the log anyway."""
        if not self._live or stored.sequence <= self._progress.read:
            return
        if len(self._queue) >= LIVE_EVENTS:
            self._live = False
            return
        self._queue.append(stored)
        self._fitting = True
        if self._group is not None and len(self._queue) == 1:
            self._pump(self._group)
        if self._queue:
            self._arrived.set()

    def checkpoint(self) -> tuple[int, tuple[int, ...]]:
        """The cursor, and what was settled above it since the last checkpoint."""
        self._position()
        return self._progress.checkpoint()

    def written(self, settlements: list[Settlement]) -> None:
        """Outcomes became durable: what was to be retried can now be read back from the retry table."""
        changed = False
        for settlement in settlements:
            if settlement.noted:
                self._retrying.discard(settlement.stored.sequence)
                self._just_written.add(settlement.stored.sequence)
                changed = True
            changed = changed or settlement.outcome is Outcome.RETRIED
        if changed:
            self._retries_changed.set()

    def retries_added(self, count: int) -> None:
        """Someone else put deliveries into the retry table: look again."""
        self._waiting_retries += count
        self._retries_changed.set()

    # -- the two feeders

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            follow = group.create_task(self._follow(group), name=f"follow {self.key}")
            retry = group.create_task(self._retry(group), name=f"retry {self.key}")
            self._feeders = [follow, retry]
            if self._last is not None:
                await asyncio.wait((follow,))
                await self._all_settled()
                retry.cancel()
        if self._last is not None:
            self._ended()

    async def _all_settled(self) -> None:
        """Wait until nothing is in flight and no retry waits."""
        while self._progress.outstanding or self._waiting_retries:
            self._settled.clear()
            await self._settled.wait()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        while True:
            if not self._queue:
                if not await self._refill():
                    return
            elif self._crowded:
                await self._room()
            elif self._pump(group):
                continue
            elif len(self._begun) >= self._guard.bulkhead.limit:
                # Every place is taken by deliveries of this consumer, and each that ends begins the next by itself.
                self._turn.clear()
                await self._turn.wait()
            else:
                # The event leaves the queue only when it is taken: a consumer that is stopped while it
                # waits for admission must not count it as read.
                self._take_next(group, await self._admission.admit())

    def _pump(self, group: asyncio.TaskGroup) -> bool:
        """Begin the deliveries that need not wait for anything; whether the queue has moved."""
        if self._pumping:
            return False  # a delivery that ended as soon as it began: the loop below goes on by itself
        moved = False
        self._pumping = True
        try:
            while self._queue and not self._stopping and not self._crowded:
                stored = self._queue[0]
                if not (self._fitting or self.subscription.takes(stored)):
                    self._progress.read = stored.sequence
                    self._queue.popleft()
                else:
                    permit = self._admission.try_admit()
                    if permit is None:
                        break
                    self._take_next(group, permit)
                moved = True
        finally:
            self._pumping = False
        return moved

    def _take_next(self, group: asyncio.TaskGroup, permit: Permit) -> None:
        """Take the first event of the queue, and deliver it unless it waits for another of its lane."""
        stored = self._queue.popleft() if self._queue else None  # others may have been quicker
        if stored is None or not (self._fitting or self.subscription.takes(stored)):
            self._admission.give_back(permit)
            if stored is not None:
                self._progress.read = stored.sequence
        elif self._progress.take(stored.sequence) and self._lanes.enter(stored):
            self._launch(group, stored, 1, permit)
        else:
            self._admission.give_back(permit)

    @property
    def _crowded(self) -> bool:
        """Whether as much as may be is parked, set aside, or settled above the cursor."""
        return (
            self._waiting_retries >= MAX_RETRIES
            or self._progress.ahead >= MAX_AHEAD
            or self._lanes.parked >= MAX_PARKED
        )

    async def _room(self) -> None:
        """Wait until there is room for another event."""
        while self._crowded:
            self._settled.clear()
            await self._settled.wait()

    async def _refill(self) -> bool:
        """Wait for an event while this consumer keeps up, else read a batch; False where there is no more to come."""
        if self._live:
            self._arrived.clear()
            await self._arrived.wait()
            return True
        dispatched = self._router.dispatched
        try:
            batch = await self._events.read(after=self._progress.read, limit=READ_EVENTS)
        except BusbarError as error:
            _log.warning("log_not_read", subscription=self.key, error=error.message)
            await asyncio.sleep(READ_RETRY_SECONDS)
            return True
        if self._last is not None:
            batch = [stored for stored in batch if stored.sequence <= self._last]
            if not batch:
                self._progress.read = max(self._progress.read, self._last)
                return False
        self._queue.extend(batch)
        self._fitting = False
        if not batch:
            # What was dispatched before this read and is not in the log was pruned. What came while it read may be
            # missing from its snapshot only: then the next read has it.
            self._progress.read = max(self._progress.read, dispatched)
            # Nothing awaits between this look and the switch, so no commit can slip in between.
            self._live = self._progress.read >= self._router.dispatched
        return True

    async def _retry(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._retries_changed.clear()
            try:
                wait = await self._retry_due(group)
            except BusbarError as error:
                _log.warning("retries_not_read", subscription=self.key, error=error.message)
                wait = READ_RETRY_SECONDS
            try:
                async with asyncio.timeout(wait):
                    await self._retries_changed.wait()
            except TimeoutError:
                continue

    async def _retry_due(self, group: asyncio.TaskGroup) -> float | None:
        """Deliver what is due again; seconds until the next one is, None where nothing waits."""
        now = self._clock.now().timestamp()
        limit = READ_EVENTS + len(self._retrying)
        self._just_written.clear()
        due = await self._events.due(self.key, now, limit)
        # What was settled while this was read may show as due in the older snapshot.
        busy = self._retrying | self._just_written
        fresh = [(pending, stored) for pending, stored in due if pending.sequence not in busy]
        for pending, stored in fresh:
            permit = await self._admission.admit()
            self._retrying.add(pending.sequence)
            self._launch(group, stored, pending.attempt + 1, permit, pending.error)
        if len(due) >= limit:
            return 0.0
        following = await self._events.next_due(self.key, after=now)
        return None if following is None else max(0.0, following - self._clock.now().timestamp())

    # -- one delivery

    def _launch(
        self, group: asyncio.TaskGroup, stored: StoredEvent, attempt: int, permit: Permit, last: str = ""
    ) -> None:
        """Deliver: without a task where the runtime needs none, and nothing has to be waited for before the hook."""
        sequence = stored.sequence
        noted = sequence in self._retrying
        given_up = self._attempts.beyond(stored, attempt, last)
        if given_up:
            permit.give_back()
            self._admission.left()
            self._settle(group, self._attempts.give_up(stored, attempt - 1, given_up, noted=noted))
            return
        if not self._note_first and self.subscription.name != SCHEDULES:

            def ended(settlement: Settlement) -> None:
                self._begun.pop(sequence, None)
                self._admission.left()
                self._settle(group, settlement)
                self._pump(group)
                # Where somebody else was given the place, it has to be waited for like any other.
                if not self._queue or self._crowded or len(self._begun) < self._guard.bulkhead.limit:
                    self._turn.set()

            begun = self._attempts.begin(stored, attempt, permit, ended, noted=noted)
            if begun is not None:
                if not begun.over:
                    self._begun[sequence] = begun
                return
        group.create_task(self._deliver(group, stored, attempt, permit))

    async def _deliver(self, group: asyncio.TaskGroup, stored: StoredEvent, attempt: int, permit: Permit) -> None:
        try:
            settlement = await self._attempt(stored, attempt, permit)
        finally:
            self._admission.left()
        self._settle(group, settlement)

    async def _attempt(self, stored: StoredEvent, attempt: int, permit: Permit) -> Settlement:
        sequence, attempts = stored.sequence, self._attempts
        if self._note_first:
            try:
                await self._note(sequence, attempt)
            except BaseException as error:  # all but our own errors are raised again
                permit.give_back()
                if not isinstance(error, BusbarError):
                    raise
                return attempts.put_off(stored, attempt - 1, error.message, noted=sequence in self._retrying)
        make = self._firings.attempt if self.subscription.name == SCHEDULES else attempts.make
        return await make(stored, attempt, permit, noted=sequence in self._retrying)

    async def _deliver_next(self, group: asyncio.TaskGroup, stored: StoredEvent) -> None:
        """Deliver an event that waited behind another of its lane."""
        try:
            permit = await self._admission.admit()
        finally:
            self._queued.discard(asyncio.current_task())
        self._launch(group, stored, 1, permit)

    async def _note(self, sequence: int, attempt: int) -> None:
        """Make the attempt durable before the hook runs, so that a hook that ends the host is counted."""
        now = self._clock.now().timestamp()
        await self._events.begin([PendingRetry(self.key, sequence, attempt, now, "")])
        if sequence not in self._retrying:
            self._retrying.add(sequence)
            self._waiting_retries += 1

    def _settle(self, group: asyncio.TaskGroup, settlement: Settlement) -> None:
        stored, outcome = settlement.stored, settlement.outcome
        again = outcome is Outcome.RETRIED
        self._waiting_retries += again - settlement.noted
        self._progress.settle(stored.sequence)
        self._firings.settled(stored.sequence)
        self._settlements.add(self, settlement)
        self._settled.set()
        # What no runtime took was never tried: it keeps its place in any case.
        if self._lanes.ordered and (not again or not (self._lanes.blocks or settlement.attempt == 0)):
            following = self._lanes.leave(stored)
            if following is not None and not self._stopping:
                self._queued.add(group.create_task(self._deliver_next(group, following)))
        if outcome is not Outcome.DELIVERED:
            subscription = self.subscription
            _log.warning(
                "delivery_" + outcome.value.replace("-", "_"),
                plugin=subscription.plugin,
                subscription=subscription.id,
                event_id=stored.event.id,
                event_type=stored.event.type,
                delivery=f"{subscription.id}/{stored.sequence}",
                attempt=settlement.attempt,
                reason=settlement.error,
            )

    def _position(self) -> int:
        """The cursor, after moving it past events of other subscriptions that were never offered."""
        if self._live and not self._queue:
            self._progress.read = max(self._progress.read, self._router.dispatched)
        return self._progress.position


def _complain(task: asyncio.Task[None]) -> None:
    """A consumer that ends by an error delivers nothing more: nobody else would say so."""
    if not task.cancelled() and task.exception() is not None:
        _log.error("consumer_ended", consumer=task.get_name(), exc_info=task.exception())
