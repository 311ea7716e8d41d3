"""A consumer: one subscription following the log; what it takes becomes attempts, and what comes of them outcomes.

What it delivers next comes from its feed, and what failed before from its retries. Nothing here waits for anything:
whenever there may be something to deliver and room for it, the consumer is pumped, and makes the attempts that can be
made. An event that fails steps aside into the retry table, so the ones behind it go on, unless the subscription asks
for order. Where the host itself makes a mistake with it, it fails as a whole, at once: whoever made it begins it anew
from what is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from host.errors import BusbarError
from host.routing.admission import Admission, Target
from host.routing.attempts import Attempt, Outcomes
from host.routing.event_log import EventLog, Outcome, PendingRetry, Settlement, StoredEvent
from host.routing.feed import READ_EVENTS, Feed
from host.routing.firings import SUPERSEDED, Superseded
from host.routing.guard import Guard, Landing
from host.routing.lanes import Lanes
from host.routing.progress import Progress
from host.routing.retries import Retries
from host.routing.router import Router
from host.routing.settlements import Settlements
from host.routing.subscriptions import BoundSubscription
from host.runtime.errors import NotRunningError
from plugin_sdk.calls import SCHEDULES
from plugin_sdk.clock import Clock
from plugin_sdk.errors import DeadLetter

READ_RETRY_SECONDS: Final = 1.0
MAX_PARKED: Final = 1024
"""Events that wait in memory behind others of their lane; with more the consumer reads no further."""
MAX_PARKED_BYTES: Final = 2**20
"""What these events may weigh together; one alone may weigh more."""
MAX_AHEAD: Final = 65_536
"""Events settled above the cursor; with more the consumer waits for the one that holds the cursor."""
MAX_FLIGHT_BYTES: Final = 2**20
"""What the events may weigh that go to the plugin together; one alone may weigh more."""

_log = structlog.get_logger(__name__)


class Consumer:
    """Delivers the events of one subscription.

    Args:
        subscription: What it takes, and by which policy.
        log: Where events, cursors and retries are.
        router: Offers new events.
        settlements: Takes the outcomes.
        guard: Stands around every delivery.
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
        self.hook = subscription.hook
        self.priority = subscription.priority
        self._events = log
        self._router = router
        self._settlements = settlements
        self._guard = guard
        self._target = target
        self._clock = clock
        self._note_first = note_first
        self._first = None if stretch is None else stretch[0]
        self._last = None if stretch is None else stretch[1]
        self._ended = ended
        self._failed = failed
        self._admission = Admission(
            subscription, self, settlements=settlements, guard=guard, target=target, clock=clock
        )
        self._outcomes = Outcomes(
            subscription,
            clock=clock,
            rng=rng,
            letters_full=lambda: (
                log.kept_letters(subscription.plugin) >= max_dead_letters
                or log.letter_bytes(subscription.plugin) >= max_letter_bytes
            ),
        )
        self._superseded = Superseded() if subscription.name == SCHEDULES else None
        self._lanes = Lanes(subscription.policy.order, subscription.policy.at_failure)
        self._progress = Progress(0)
        self._feed = Feed(log, router, self._progress, subscription.takes, self._last)
        self._retries = Retries(self.key, log=log, clock=clock, arrived=self.pump)
        self._ready: deque[tuple[StoredEvent, int, str]] = deque()  # taken before, and in nobody's way any more
        self._open: dict[int, Attempt] = {}
        self._settled = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._group: asyncio.TaskGroup | None = None
        self._pumping = False
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
        self._halt()
        self._feed.stop()
        self._router.detach(self)
        for loop in self._loops:
            loop.cancel()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await asyncio.wait((self._task,))
                    while self._open:
                        self._settled.clear()
                        await self._settled.wait()
            self._task.cancel()
            await asyncio.wait((self._task,))
        opened, self._open = self._open, {}
        for attempt in opened.values():
            self._guard.cancel(attempt)
        await self._settlements.detach(self)

    def _halt(self) -> None:
        """Make no more attempts."""
        self._group = None
        self._admission.close()
        self._ready.clear()
        self._settled.set()

    def fail(self, error: Exception) -> None:
        """Deliver nothing more, because of a mistake of the host's: what is not durable is delivered again.

        May be called by anyone on the loop, in the middle of whatever was being done.
        """
        if self.failure is not None:
            return
        self.failure = error
        _log.error("consumer_failed", subscription=self.key, exc_info=error)
        self._halt()
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
        attempt = self._open.pop(sequence, None)
        if attempt is not None:
            self._guard.cancel(attempt)
            self._settle([self._outcomes.drop(attempt.stored, attempt.attempt, SUPERSEDED, noted=attempt.noted)])
            self.pump()
        elif self._superseded is not None:
            self._superseded.add(sequence)

    # -- what router and settlements call

    def offer(self, stored: StoredEvent) -> bool:
        """A new event that the filter takes; whether it was taken up, and the consumer is to be pumped."""
        return self._feed.offer(stored)

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
        self.pump()

    def set_aside(self, settlement: Settlement) -> None:
        """An outcome could not be written, and is a dead letter instead."""
        self._retries.set_aside(settlement)

    def retries_added(self, count: int) -> None:
        """Someone else put deliveries into the retry table, or the clock was set: look again."""
        self._retries.added(count)
        self.pump()

    # -- following

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            follow = group.create_task(self._or_fail(self._follow()), name=f"follow {self.key}")
            retry = group.create_task(self._or_fail(self._retries.run()), name=f"retry {self.key}")
            self._loops = [follow, retry]
            if self._last is not None:
                await asyncio.wait((follow,))
                while self._group is not None and (self._progress.outstanding or self._retries.waiting):
                    self._settled.clear()
                    await self._settled.wait()
                retry.cancel()
        if self._last is not None and self._group is not None:
            self._ended()

    async def _or_fail(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work; whatever it raises is this consumer's failure, and ends no task group without a word."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - logged there
            self.fail(error)

    async def _follow(self) -> None:
        """Read what is not offered."""
        while True:
            try:
                more = await self._feed.refill()
            except BusbarError as error:
                _log.warning("log_not_read", subscription=self.key, error=error.message)
                await asyncio.sleep(READ_RETRY_SECONDS)
                continue
            if not more:
                return
            self.pump()

    # -- making attempts

    def pump(self) -> None:
        """Make the attempts that can be made now."""
        group = self._group
        if self._pumping or group is None:
            return
        self._pumping = True
        try:
            while self._group is not None and self._has_next():
                room = self._admission.room(len(self._open))
                if room <= 0 or not self._make(self._gather(room), group):
                    break
        except Exception as error:  # noqa: BLE001 - logged there; whoever pumps serves others, too
            self.fail(error)
        finally:
            self._pumping = False

    def _has_next(self) -> bool:
        return bool(self._ready or self._retries.due or self._next_new() is not None)

    def _next_new(self) -> StoredEvent | None:
        """The next event that was never tried, unless as much as may be is parked, set aside or settled ahead."""
        crowded = (
            self._retries.crowded
            or self._progress.ahead >= MAX_AHEAD
            or self._lanes.parked >= MAX_PARKED
            or self._lanes.parked_bytes >= MAX_PARKED_BYTES
        )
        return None if crowded else self._feed.peek()

    def _gather(self, room: int) -> list[Attempt]:
        """The next attempts, at most `room`: those that can go to the plugin together."""
        found: list[Attempt] = []
        costly = self.subscription.filter.costly
        size, unfiltered = 0, False
        while len(found) < room:
            new = False
            if self._ready:
                stored, number, last = self._ready[0]
            elif self._retries.due and (len(found) < max(1, room // 2) or self._next_new() is None):
                pending, stored = self._retries.due[0]
                number, last = pending.attempt + 1, pending.error
            elif (following := self._next_new()) is not None:
                stored, number, last, new = following, 1, "", True
            else:
                break
            size += len(stored.body)
            if not found:
                unfiltered = costly(stored)
            elif size > MAX_FLIGHT_BYTES or costly(stored) is not unfiltered:
                break
            self._take(new=new)
            if new and not (self._progress.take(stored.sequence) and self._lanes.enter(stored)):
                continue
            attempt = self._attempt(stored, number, last)
            if attempt is not None:
                found.append(attempt)
        return found

    def _take(self, *, new: bool) -> None:
        """Take what comes next out of where it waits."""
        if new:
            self._feed.take()
        elif self._ready:
            self._ready.popleft()
        else:
            self._retries.take()

    def _attempt(self, stored: StoredEvent, number: int, last: str) -> Attempt | None:
        """An attempt to be made; None where the delivery is given up instead."""
        noted = self._retries.noted(stored.sequence)
        if self._superseded is not None and self._superseded.take(stored.sequence):
            self._settle([self._outcomes.drop(stored, number - 1, SUPERSEDED, noted=noted)])
            return None
        given_up = self._outcomes.beyond(stored, number, last)
        if given_up:
            self._settle([self._outcomes.give_up(stored, number - 1, given_up, noted=noted)])
            return None
        return Attempt(self, stored, number, self.subscription.timeout_of(stored), last=last, noted=noted)

    def _make(self, attempts: list[Attempt], group: asyncio.TaskGroup) -> bool:
        """Make attempts; False where no runtime takes them now."""
        if not attempts:
            return True
        self._admission.made()
        self._guard.admit(attempts)
        self._open.update((attempt.stored.sequence, attempt) for attempt in attempts)
        if self._note_first:
            group.create_task(self._or_fail(self._note_and_hand_over(attempts)))
            return True
        return self._hand_over(attempts)

    def _hand_over(self, attempts: Sequence[Attempt]) -> bool:
        """Have the runtime make attempts; False where none takes them now."""
        runtime = self._target.runtime
        stored = attempts[0].stored
        flight = self.subscription.flight(unfiltered=self.subscription.filter.costly(stored))
        try:
            if runtime is None:
                raise NotRunningError(f"{self.subscription.plugin} does not run now")
            runtime.fly(flight, attempts, self._guard)
        except NotRunningError:
            self._guard.refused(attempts)
            return False
        except DeadLetter as error:
            self._guard.landed([(attempt, error, 0.0) for attempt in attempts])
            return True
        for attempt in attempts:
            attempt.runtime = runtime
        return True

    async def _note_and_hand_over(self, attempts: Sequence[Attempt]) -> None:
        """Make attempts durable before the hook runs, so that one that ends the host is counted."""
        now = self._clock.now().timestamp()
        try:
            await self._events.begin(
                [PendingRetry(self.key, one.stored.sequence, one.attempt, now, "") for one in attempts]
            )
        except BusbarError as error:
            for attempt in attempts:
                self._open.pop(attempt.stored.sequence, None)
                self._guard.cancel(attempt)
            put_off = self._outcomes.put_off
            self._settle([put_off(one.stored, one.attempt - 1, error.message, noted=one.noted) for one in attempts])
            self.pump()
            return
        for attempt in attempts:
            self._retries.note(attempt.stored.sequence)
            attempt.noted = True
        wanted = [attempt for attempt in attempts if not attempt.over]
        if wanted:
            self._hand_over(wanted)

    # -- what becomes of them

    def landed(self, landings: Sequence[Landing]) -> None:
        """Attempts ended."""
        now = self._clock.now().timestamp()
        outcome = self._outcomes.of
        settlements = []
        for attempt, error, seconds in landings:
            if self._open.pop(attempt.stored.sequence, None) is not None:
                settlements.append(outcome(attempt, error, now - seconds, seconds))
        if settlements:
            self._settle(settlements)

    def recalled(self, attempts: Sequence[Attempt]) -> None:
        """Attempts were not begun, and are made later, before what comes behind them."""
        for attempt in reversed(attempts):
            if self._open.pop(attempt.stored.sequence, None) is not None and self._group is not None:
                self._ready.appendleft((attempt.stored, attempt.attempt, attempt.last))
        self._settled.set()

    def _settle(self, settlements: Sequence[Settlement]) -> None:
        if self.failure is not None:
            return  # its cursor may be past what was never written: it must not be written any more
        for settlement in settlements:
            self._retries.settled(settlement)
            self._progress.settle(settlement.stored.sequence)
            if self._lanes.ordered:
                self._leave_lane(settlement)
            if settlement.outcome is not Outcome.DELIVERED:
                self._tell(settlement)
        self._settlements.add(self, settlements)
        self._settled.set()

    def _leave_lane(self, settlement: Settlement) -> None:
        """Have the next of the lane delivered, unless it waits for this one's next attempt."""
        again = settlement.outcome is Outcome.RETRIED
        # What was never tried keeps its place in any case.
        if not again or not (self._lanes.blocks or settlement.attempt == 0):
            following = self._lanes.leave(settlement.stored)
            if following is not None and self._group is not None:
                self._ready.append((following, 1, ""))

    def _tell(self, settlement: Settlement) -> None:
        subscription, stored = self.subscription, settlement.stored
        _log.warning(
            "delivery_" + settlement.outcome.value.replace("-", "_"),
            plugin=subscription.plugin,
            subscription=subscription.id,
            event_id=stored.event.id,
            event_type=stored.event.type,
            delivery=f"{subscription.id}/{stored.sequence}",
            attempt=settlement.attempt,
            reason=settlement.error,
        )
