"""A consumer: one subscription following the log, delivering through the guard, settling what comes of it.

It is fed from memory by the commit that just happened while it keeps up, and reads batches from the log
while it does not; both ways are bounded. An event that fails steps aside into the retry table, so the
ones behind it go on.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import Any, Final, Protocol

import structlog

from host.errors import BusbarError
from host.routing.event_log import EventLog, Outcome, PendingRetry, Settlement, StoredEvent
from host.routing.guard import Guard, Permit
from host.routing.progress import Progress
from host.routing.router import Router
from host.routing.settlements import Settlements
from host.routing.subscriptions import BoundSubscription
from host.runtime.errors import NotRunningError
from plugin_sdk.calls import HookCall
from plugin_sdk.clock import Clock
from plugin_sdk.errors import DeadLetter, Drop, Retry

LIVE_EVENTS: Final = 1024
"""Events held in memory for a consumer that keeps up; one more and it reads from the log instead."""
READ_EVENTS: Final = 256
READ_RETRY_SECONDS: Final = 1.0
REFUSED_SECONDS: Final = 0.5
"""Wait before a delivery that no runtime took is offered again."""

_log = structlog.get_logger(__name__)


class Target(Protocol):
    """The plugin's runtime, as a consumer needs it."""

    @property
    def running(self) -> bool:
        """Whether a call would reach the plugin now."""
        ...

    async def wait_running(self) -> None:
        """Wait until the plugin's runtime runs."""
        ...

    def call(self, call: HookCall) -> Awaitable[Any]:
        """Enter the hook; raises `NotRunningError` where no runtime took the call."""
        ...


class Consumer:
    """Delivers the events of one subscription.

    Args:
        subscription: What it takes, and how failures are retried.
        log: Where events, cursors and retries are.
        router: Offers new events.
        settlements: Takes the outcomes.
        guard: Stands around every call; its bulkhead bounds what is in flight.
        target: The plugin's runtime.
        clock: For due times.
        rng: For the jitter of retries.
        note_first: Write each attempt down before the hook is called, because the hook could take the
            host down with it (an inline runtime).
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
    ) -> None:
        self.subscription = subscription
        self.key = subscription.id
        self._events = log
        self._router = router
        self._settlements = settlements
        self._guard = guard
        self._target = target
        self._clock = clock
        self._rng = rng
        self._note_first = note_first
        self._progress = Progress(0)
        self._queue: deque[StoredEvent] = deque()
        self._live = False
        self._arrived = asyncio.Event()
        self._retries_changed = asyncio.Event()
        self._retrying: set[int] = set()
        self._just_written: set[int] = set()
        self._feeders: list[asyncio.Task[None]] = []
        self._task: asyncio.Task[None] | None = None

    # -- life

    async def start(self) -> None:
        """Take up the cursor where it stands and follow the log; a new subscription starts at its end."""
        position = await self._events.cursor(self.key, start=self._router.dispatched)
        self._progress = Progress(position, await self._events.ahead(self.key))
        self._settlements.attach(self, position)
        self._router.attach(self)
        self._task = asyncio.create_task(self._run(), name=f"consumer {self.key}")

    async def stop(self, grace: float) -> None:
        """Take nothing more, give deliveries in flight `grace` seconds to end, and write the cursor.

        What does not end in time is cancelled; it counts for nothing and is delivered again.
        """
        self._router.detach(self)
        for feeder in self._feeders:
            feeder.cancel()
        if self._task is not None:
            done, _ = await asyncio.wait((self._task,), timeout=grace)
            if not done:
                self._task.cancel()
                await asyncio.wait((self._task,))
        await self._settlements.detach(self)

    @property
    def lag(self) -> int:
        """How many events of the log are not settled for this subscription, matching or not."""
        return max(0, self._router.dispatched - self._position())

    @property
    def in_flight(self) -> int:
        """Deliveries taken from the log and not settled."""
        return self._progress.outstanding

    # -- what router and settlements call

    def offer(self, stored: StoredEvent) -> None:
        """A new event that the filter takes; ignored while this consumer reads from the log anyway."""
        if not self._live or stored.sequence <= self._progress.read:
            return
        if len(self._queue) >= LIVE_EVENTS:
            self._live = False
            return
        self._queue.append(stored)
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

    def retries_changed(self) -> None:
        """Someone else put something into the retry table: look again."""
        self._retries_changed.set()

    # -- the two feeders

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._feeders = [
                group.create_task(self._follow(group), name=f"follow {self.key}"),
                group.create_task(self._retry(group), name=f"retry {self.key}"),
            ]

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        while True:
            if not self._queue:
                await self._refill()
                continue
            # The event leaves the queue only when it is taken: a consumer that is stopped while it
            # waits for admission must not count it as read.
            stored = self._queue[0]
            if not self.subscription.filter.takes(stored.event):
                self._progress.read = stored.sequence
            else:
                permit = await self._admitted()
                if self._progress.take(stored.sequence):
                    group.create_task(self._deliver(stored, 1, permit))
                else:
                    permit.give_back()
            self._queue.popleft()

    async def _refill(self) -> None:
        """Wait for an event while this consumer keeps up, else read a batch of the log."""
        if self._live:
            self._arrived.clear()
            await self._arrived.wait()
            return
        try:
            batch = await self._events.read(after=self._progress.read, limit=READ_EVENTS)
        except BusbarError as error:
            _log.warning("log_not_read", subscription=self.key, error=error.message)
            await asyncio.sleep(READ_RETRY_SECONDS)
            return
        self._queue.extend(batch)
        # Nothing awaits between this look and the switch, so no commit can slip in between.
        if not batch and self._progress.read >= self._router.dispatched:
            self._live = True
        elif not batch:
            # The log ends below what was dispatched only where pruning took the rest.
            self._progress.read = self._router.dispatched

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
            permit = await self._admitted()
            self._retrying.add(pending.sequence)
            group.create_task(self._deliver(stored, pending.attempt + 1, permit))
        if len(due) >= limit:
            return 0.0
        following = await self._events.next_due(self.key, after=now)
        return None if following is None else max(0.0, following - self._clock.now().timestamp())

    async def _admitted(self) -> Permit:
        """Wait for the disk, the runtime, the bulkhead and the breaker; none of this is an attempt."""
        while True:
            await self._settlements.room()
            await self._target.wait_running()
            permit = await self._guard.admit()
            if self._target.running:
                return permit
            permit.give_back()

    # -- one delivery

    async def _deliver(self, stored: StoredEvent, attempt: int, permit: Permit) -> None:
        subscription = self.subscription
        delivery, call = subscription.call_for(stored, attempt)
        if attempt > subscription.retry.attempts:
            permit.give_back()
            lost = "the host or the worker stopped during the last attempt"
            self._settle(stored, attempt - 1, self._clock.now().timestamp(), 0.0, Outcome.DEAD_LETTERED, lost)
            return
        started_at = self._clock.now().timestamp()
        started = self._clock.monotonic()
        outcome, reason, traceback = Outcome.DELIVERED, "", ""
        retry_after: float | None = None
        try:
            if self._note_first:
                await self._note(stored.sequence, attempt)
            await self._guard.run(
                permit, partial(self._target.call, call), subscription.hook, subscription.timeout, delivery.id
            )
        except Retry as verdict:
            outcome, reason, retry_after = (
                Outcome.RETRIED,
                verdict.reason or "the plugin asked",
                verdict.after,
            )
        except Drop as verdict:
            outcome, reason = Outcome.DROPPED, verdict.reason
        except DeadLetter as verdict:
            outcome, reason = Outcome.DEAD_LETTERED, verdict.reason
        except NotRunningError as error:
            outcome, reason, retry_after, attempt = (
                Outcome.RETRIED,
                error.message,
                REFUSED_SECONDS,
                attempt - 1,
            )
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is an outcome, never the host's end
            outcome, reason = Outcome.RETRIED, f"{_named(error)}"
            traceback = getattr(error, "traceback", "")
        duration = self._clock.monotonic() - started
        if outcome is Outcome.RETRIED and attempt >= subscription.retry.attempts:
            outcome, reason = Outcome.DEAD_LETTERED, f"gave up after {attempt} attempts: {reason}"
        retry_at = None
        if outcome is Outcome.RETRIED:
            delay = subscription.retry.delay(max(attempt, 1), rng=self._rng)
            retry_at = self._clock.now().timestamp() + (delay if retry_after is None else retry_after)
        self._settle(stored, attempt, started_at, duration, outcome, reason, traceback, retry_at)

    async def _note(self, sequence: int, attempt: int) -> None:
        """Make the attempt durable before the hook runs, so that a hook that ends the host is counted."""
        self._retrying.add(sequence)
        now = self._clock.now().timestamp()
        await self._events.begin([PendingRetry(self.key, sequence, attempt, now, "started")])

    def _settle(
        self,
        stored: StoredEvent,
        attempt: int,
        started_at: float,
        duration: float,
        outcome: Outcome,
        reason: str,
        traceback: str = "",
        retry_at: float | None = None,
    ) -> None:
        subscription = self.subscription
        self._progress.settle(stored.sequence)
        self._settlements.add(
            self,
            Settlement(
                subscription=subscription.id,
                plugin=subscription.plugin,
                stored=stored,
                attempt=attempt,
                outcome=outcome,
                started_at=started_at,
                duration=duration,
                error=reason,
                traceback=traceback,
                retry_at=retry_at,
                noted=stored.sequence in self._retrying,
            ),
        )
        if outcome is not Outcome.DELIVERED:
            _log.warning(
                "delivery_" + outcome.value.replace("-", "_"),
                plugin=subscription.plugin,
                subscription=subscription.id,
                event_id=stored.event.id,
                event_type=stored.event.type,
                delivery=f"{subscription.id}/{stored.sequence}",
                attempt=attempt,
                reason=reason,
            )

    def _position(self) -> int:
        """The cursor, after moving it past events of other subscriptions that were never offered."""
        if self._live and not self._queue:
            self._progress.read = max(self._progress.read, self._router.dispatched)
        return self._progress.position


def _named(error: Exception) -> str:
    if isinstance(error, BusbarError):
        return error.message
    return f"{type(error).__name__}: {error}"
