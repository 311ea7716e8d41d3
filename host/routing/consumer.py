"""A consumer: one subscription following the log, delivering through the guard, settling what comes of it.

What it delivers next comes from its feed, and what failed before from its retries. An event that fails steps aside
into the retry table, so the ones behind it go on, unless the subscription asks for order. Where the host itself makes
a mistake with it, it fails as a whole, at once: whoever made it begins it anew from what is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from host.errors import BusbarError
from host.routing.admission import Admission, Target
from host.routing.attempts import Attempts
from host.routing.event_log import EventLog, Outcome, PendingRetry, Settlement, StoredEvent
from host.routing.feed import READ_EVENTS, Feed
from host.routing.firings import Firings
from host.routing.guard import BegunCall, Guard, Permit
from host.routing.lanes import Lanes
from host.routing.progress import Progress
from host.routing.retries import Retries
from host.routing.router import Router
from host.routing.settlements import Settlements
from host.routing.subscriptions import SCHEDULES, BoundSubscription
from plugin_sdk.clock import Clock

READ_RETRY_SECONDS: Final = 1.0
MAX_PARKED: Final = 1024
"""Events that wait in memory behind others of their lane; with more the consumer reads no further."""
MAX_PARKED_BYTES: Final = 2**20
"""What these events may weigh together; one alone may weigh more."""
MAX_AHEAD: Final = 65_536
"""Events settled above the cursor; with more the consumer waits for the one that holds the cursor."""

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
        failed: Called once with why, where it cannot go on: it delivers nothing more and is to be stopped.
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
        failed: Callable[[Exception], None] = lambda _error: None,
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
        self._failed = failed
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
        self._feed = Feed(self.key, log, router, self._progress, self._last)
        self._retries = Retries(self.key, log=log, clock=clock, admission=self._admission, launch=self._launch)
        self._settled = asyncio.Event()
        self._queued: set[asyncio.Task[None]] = set()
        self._feeders: list[asyncio.Task[None]] = []
        self._begun: dict[int, BegunCall] = {}
        self._pumping = False
        self._group: asyncio.TaskGroup | None = None
        self._turn = asyncio.Event()
        self._stopping = False
        self.failure: Exception | None = None
        """Why it cannot go on; None where it can."""
        self._task: asyncio.Task[None] | None = None

    # -- life

    async def start(self) -> None:
        """Take up the cursor where it stands and follow the log; a new subscription starts at its end.

        Raises:
            BusbarError: the log could not be read or written.
        """
        start = self._router.dispatched if self._first is None else self._first - 1
        holds = self.subscription.policy.behind == "hold"
        position = await self._events.cursor(self.key, start=start, holds=holds)
        self._progress.take_up(position, await self._events.ahead(self.key))
        self._retries.added(await self._events.waiting_retries(self.key))
        if self._lanes.blocks:
            await self._occupy_lanes()
        self._settlements.attach(self, position)
        if self._last is None:
            self._router.attach(self)
        self._task = asyncio.create_task(self._run(), name=f"consumer {self.key}")

    async def _occupy_lanes(self) -> None:
        """Have the lanes of what failed before wait for it."""
        after = 0
        while waiting := await self._events.waiting_events(self.key, after, READ_EVENTS):
            for stored in waiting:
                self._lanes.occupy(stored)
            after = waiting[-1].sequence

    async def stop(self, grace: float) -> None:
        """Take nothing more, give deliveries in flight `grace` seconds to end, and write the cursor.

        What does not end in time is cancelled; it counts for nothing and is delivered again.
        """
        self._stopping = True
        self._group = None
        self._feed.stop()
        self._router.detach(self)
        for waiting in (*self._feeders, *self._queued):
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
        await self._settlements.detach(self)

    async def _none_begun(self) -> None:
        """Wait until every delivery that goes on without a task has ended."""
        while self._begun:
            self._settled.clear()
            await self._settled.wait()

    def fail(self, error: Exception) -> None:
        """Deliver nothing more, because of a mistake of the host's: what is not durable is delivered again.

        May be called by anyone on the loop, in the middle of whatever was being done.
        """
        if self.failure is not None or self._stopping:
            return
        self.failure = error
        _log.error("consumer_failed", subscription=self.key, exc_info=error)
        self._group = None
        self._feed.lose()
        self._router.detach(self)
        if self._task is not None:
            self._task.cancel()
        self._failed(error)

    @property
    def lag(self) -> int:
        """How many events of the log are not settled for this subscription, matching or not."""
        end = self._router.dispatched if self._last is None else self._last
        self._feed.caught_up()
        return max(0, end - self._progress.position)

    @property
    def in_flight(self) -> int:
        """Deliveries taken from the log and not settled."""
        return self._progress.outstanding

    @property
    def waiting_retries(self) -> int:
        """Deliveries that wait for their next attempt."""
        return self._retries.waiting

    def supersede(self, sequence: int) -> None:
        """Drop the delivery of a firing: cancelled where it runs, not tried (again) where it waits."""
        self._firings.supersede(sequence)

    # -- what router and settlements call

    def offer(self, stored: StoredEvent) -> None:
        """A new event that the filter takes; ignored while this consumer reads from the log anyway."""
        if not self._feed.offer(stored):
            return
        if self._group is not None and len(self._feed) == 1:
            self._pump(self._group)
        if self._feed:
            self._feed.wake()

    def fall_behind(self) -> None:
        """Read from the log: it is not certain that every offer has arrived."""
        self._feed.fall_behind()

    def checkpoint(self) -> tuple[int, tuple[int, ...]]:
        """The cursor, and what was settled above it since the last checkpoint."""
        self._feed.caught_up()
        return self._progress.checkpoint()

    def written(self, settlements: Sequence[Settlement]) -> None:
        """Outcomes became durable: what was to be retried can now be read back from the retry table."""
        self._retries.written(settlements)

    def set_aside(self, settlement: Settlement) -> None:
        """An outcome could not be written, and is a dead letter instead."""
        self._retries.set_aside(settlement)

    def retries_added(self, count: int) -> None:
        """Someone else put deliveries into the retry table: look again."""
        self._retries.added(count)

    # -- following

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            follow = group.create_task(self._or_fail(self._follow(group)), name=f"follow {self.key}")
            retry = group.create_task(self._or_fail(self._retries.run()), name=f"retry {self.key}")
            self._feeders = [follow, retry]
            if self._last is not None:
                await asyncio.wait((follow,))
                await self._all_settled()
                retry.cancel()
        if self._last is not None and self.failure is None:
            self._ended()

    async def _or_fail(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work; whatever it raises is this consumer's failure, and ends no task group without a word."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - logged there
            self.fail(error)

    async def _all_settled(self) -> None:
        """Wait until nothing is in flight and no retry waits."""
        while self._progress.outstanding or self._retries.waiting:
            self._settled.clear()
            await self._settled.wait()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        while True:
            if not self._feed:
                try:
                    if not await self._feed.refill():
                        return
                except BusbarError as error:
                    _log.warning("log_not_read", subscription=self.key, error=error.message)
                    await asyncio.sleep(READ_RETRY_SECONDS)
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
        feed = self._feed
        try:
            while feed and not self._crowded:
                stored = feed.first
                if not (feed.sifted or self.subscription.takes(stored)):
                    self._progress.read = stored.sequence
                    feed.pop()
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
        feed = self._feed
        sifted = feed.sifted
        stored = feed.pop() if feed else None  # others may have been quicker
        if stored is None or not (sifted or self.subscription.takes(stored)):
            self._admission.give_back(permit)
            if stored is not None:
                self._progress.read = stored.sequence
        elif self._progress.take(stored.sequence) and self._lanes.enter(stored):
            self._begin(group, stored, 1, permit)
        else:
            self._admission.give_back(permit)

    @property
    def _crowded(self) -> bool:
        """Whether as much as may be is parked, set aside, or settled above the cursor."""
        return (
            self._retries.crowded
            or self._progress.ahead >= MAX_AHEAD
            or self._lanes.parked >= MAX_PARKED
            or self._lanes.parked_bytes >= MAX_PARKED_BYTES
        )

    async def _room(self) -> None:
        """Wait until there is room for another event."""
        while self._crowded:
            self._settled.clear()
            await self._settled.wait()

    # -- one delivery

    def _launch(self, stored: StoredEvent, attempt: int, permit: Permit, last: str) -> None:
        """Make another attempt at a delivery that had stepped aside."""
        if self._group is None:
            self._admission.give_back(permit)
        else:
            self._begin(self._group, stored, attempt, permit, last)

    def _begin(
        self, group: asyncio.TaskGroup, stored: StoredEvent, attempt: int, permit: Permit, last: str = ""
    ) -> None:
        """Deliver: without a task where the runtime needs none, and nothing has to be waited for before the hook."""
        sequence = stored.sequence
        noted = self._retries.noted(sequence)
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
                if self._stopping or self.failure is not None:
                    return
                self._pump(group)
                # Where somebody else was given the place, it has to be waited for like any other.
                if not self._feed or self._crowded or len(self._begun) < self._guard.bulkhead.limit:
                    self._turn.set()

            begun = self._attempts.begin(stored, attempt, permit, ended, self.fail, noted=noted)
            if begun is not None:
                if not begun.over:
                    self._begun[sequence] = begun
                return
        group.create_task(self._or_fail(self._deliver(group, stored, attempt, permit)))

    async def _deliver(self, group: asyncio.TaskGroup, stored: StoredEvent, attempt: int, permit: Permit) -> None:
        try:
            settlement = await self._attempt(stored, attempt, permit)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopping or self.failure is not None or task is None:
                raise
            task.uncancel()  # nobody in the host asked for it, so it was the hook itself
            settlement = self._attempts.cancelled(stored, attempt, noted=self._retries.noted(stored.sequence))
        finally:
            self._admission.left()
        self._settle(group, settlement)

    async def _attempt(self, stored: StoredEvent, attempt: int, permit: Permit) -> Settlement:
        sequence, attempts, retries = stored.sequence, self._attempts, self._retries
        if self._note_first:
            try:
                await self._note(sequence, attempt)
            except BaseException as error:  # all but our own errors are raised again
                permit.give_back()
                if not isinstance(error, BusbarError):
                    raise
                return attempts.put_off(stored, attempt - 1, error.message, noted=retries.noted(sequence))
        make = self._firings.attempt if self.subscription.name == SCHEDULES else attempts.make
        return await make(stored, attempt, permit, noted=retries.noted(sequence))

    async def _deliver_next(self, group: asyncio.TaskGroup, stored: StoredEvent) -> None:
        """Deliver an event that waited behind another of its lane."""
        self._begin(group, stored, 1, await self._admission.admit())

    async def _note(self, sequence: int, attempt: int) -> None:
        """Make the attempt durable before the hook runs, so that a hook that ends the host is counted."""
        now = self._clock.now().timestamp()
        await self._events.begin([PendingRetry(self.key, sequence, attempt, now, "")])
        self._retries.note(sequence)

    def _settle(self, group: asyncio.TaskGroup, settlement: Settlement) -> None:
        if self.failure is not None:
            return  # its cursor may be past what was never written: it must not be written any more
        stored, outcome = settlement.stored, settlement.outcome
        again = outcome is Outcome.RETRIED
        self._retries.settled(settlement)
        self._progress.settle(stored.sequence)
        self._firings.settled(stored.sequence)
        self._settlements.add(self, settlement)
        self._settled.set()
        # What no runtime took was never tried: it keeps its place in any case.
        if self._lanes.ordered and (not again or not (self._lanes.blocks or settlement.attempt == 0)):
            following = self._lanes.leave(stored)
            if following is not None and not self._stopping:
                queued = group.create_task(self._or_fail(self._deliver_next(group, following)))
                self._queued.add(queued)
                queued.add_done_callback(self._queued.discard)
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
