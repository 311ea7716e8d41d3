"""The pump: sends what is due, endpoint by endpoint, each behind its own breaker and rate.

One endpoint that hangs, fails or is slow holds up nobody else: what is due is looked for in each endpoint's own queue,
in turns, and an endpoint has only its share of the requests under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from plugin_sdk import Context, HostError
from plugin_sdk.clock import Clock
from plugin_sdk.resilience import Breaker, BreakerPolicy, TokenBucket
from webhooks.backlog import Backlog, Backlogs, FullError
from webhooks.endpoints import Directory, Endpoint
from webhooks.errors import ApiError
from webhooks.messages import Attempt
from webhooks.outcomes import Outcomes
from webhooks.sending import TIMEOUT, BusyError, Sender

LONGEST_NAP: Final = 60.0
"""Seconds after which the pump looks again in any case: the clock on the wall may have been set."""
AGAIN_AFTER: Final = 5.0
"""Seconds until a message is tried again that could not be, for a reason on this side."""
STOP_GRACE: Final = 5.0
"""Seconds that requests under way have at the end; what is cut off then is sent again at the next start."""
_POLICY: Final = BreakerPolicy(
    consecutive_failures=5,
    window=60.0,
    minimum_calls=20,
    slow_call=TIMEOUT,
    open_for=60.0,
    longest_open=600.0,
    probes=1,  # an endpoint may have no more than one message to try it with
    half_open_for=2 * TIMEOUT,
)


@dataclass(slots=True)
class Lane:
    """What limits the requests to one endpoint, and what has been sent since the plugin started."""

    breaker: Breaker
    rate: float | None = None
    bucket: TokenBucket | None = None
    in_flight: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def allowed(self, endpoint: Endpoint, now: Callable[[], float]) -> bool:
        """Take one request of the endpoint's rate."""
        if endpoint.rate != self.rate:
            self.rate = endpoint.rate
            self.bucket = None if self.rate is None else TokenBucket(self.rate, max(1.0, self.rate), now)
        return self.bucket is None or self.bucket.take()

    def count(self, attempt: Attempt) -> None:
        """Count an attempt by its class: `2xx`, `4xx`, …, or its outcome where there was no status."""
        name = attempt.outcome if attempt.status is None else f"{attempt.status // 100}xx"
        self.counts[name] = self.counts.get(name, 0) + 1


class Pump:
    """Sends what is due from `start` to `stop`."""

    def __init__(
        self,
        context: Context,
        directory: Directory,
        backlogs: Backlogs,
        sender: Sender,
        outcomes: Outcomes,
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._context = context
        self._directory = directory
        self._backlogs = backlogs
        self._sender = sender
        self._outcomes = outcomes
        self._clock = clock
        self._rng = rng
        self._lanes: dict[str, Lane] = {}
        self._in_flight = 0
        self._turns = 0
        self._stopping = False
        self._wake = asyncio.Event()
        self._resting = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="pump")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Send nothing new, and give what is under way a little time."""
        if self._task is None:
            return
        self._stopping = True
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE):
                while self._in_flight and not self._task.done():
                    await self.settle()
        self._task.cancel()
        await asyncio.wait([self._task])

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self._task is not None and not self._task.done()

    def wake(self) -> None:
        """Look for what is due now: something has changed."""
        self._resting.clear()
        self._wake.set()

    async def settle(self) -> None:
        """Wait until nothing is under way and nothing can be sent now."""
        self.wake()
        await self._resting.wait()

    def lane(self, endpoint: str) -> Lane:
        """What limits the requests to an endpoint."""
        if endpoint not in self._lanes:
            self._lanes[endpoint] = Lane(Breaker(_POLICY, clock=self._clock, rng=self._rng))
        return self._lanes[endpoint]

    def forget(self, endpoint: str) -> None:
        """Forget an endpoint that is gone."""
        self._lanes.pop(endpoint, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._context.log.error("the pump has ended, nothing is sent any more: %r", error, exc_info=error)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                nap = LONGEST_NAP if self._stopping else self._turn(group)
                if not self._in_flight:
                    self._resting.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(nap):
                        await self._wake.wait()

    def _turn(self, group: asyncio.TaskGroup) -> float:
        """Begin to send what can be sent; the seconds until more can be."""
        endpoints = [one for one in self._directory if one.enabled]
        self._turns += 1
        nap = LONGEST_NAP
        for at in range(len(endpoints)):
            # Another endpoint is first each time, so that none is always left what is over.
            endpoint = endpoints[(at + self._turns) % len(endpoints)]
            nap = min(nap, self._serve(endpoint, group))
        return nap

    def _serve(self, endpoint: Endpoint, group: asyncio.TaskGroup) -> float:
        config = self._context.config
        backlog, lane = self._backlogs.of(endpoint.id), self.lane(endpoint.id)
        while (due := backlog.first()) is not None:
            wait = due / 1000 - self._clock.now().timestamp()
            if wait > 0:
                return wait
            if lane.in_flight >= config.in_flight_of_one or self._in_flight >= config.in_flight:
                return LONGEST_NAP  # the end of a request wakes the pump
            permit = lane.breaker.try_acquire()
            if permit is None:
                return lane.breaker.wait_hint() or AGAIN_AFTER
            if not lane.allowed(endpoint, self._clock.monotonic):
                lane.breaker.ignore(permit)
                return 1 / (endpoint.rate or 1)
            lane.in_flight += 1
            self._in_flight += 1
            message = backlog.take()
            group.create_task(self._send(backlog, lane, message, permit), name=f"send {message}")
        return LONGEST_NAP

    async def _send(self, backlog: Backlog, lane: Lane, message_id: str, permit: int) -> None:
        again: float | None = AGAIN_AFTER
        judged = False
        try:
            message = await self._backlogs.read(backlog.endpoint, message_id)
            endpoint = self._directory.find(backlog.endpoint)
            if message is None or endpoint is None:
                again = None
                return
            attempt = await self._sender.attempt(endpoint, message)
            judge(lane, permit, attempt)
            judged = True
            await self._outcomes.record(message, attempt)
            again = None
        except (BusyError, HostError, FullError) as error:
            self._context.log.warning("message %s is tried again in %g s: %s", message_id, AGAIN_AFTER, error)
        except ApiError:
            again = None  # the endpoint was deleted meanwhile
        except Exception:
            # One message that cannot be sent for a reason nobody thought of must not end the sending of all others.
            again = LONGEST_NAP
            self._context.log.exception("message %s is tried again in %g s", message_id, again)
        finally:
            if not judged:
                lane.breaker.ignore(permit)
            if again is not None and message_id in backlog.waiting:
                backlog.retake(message_id, int((self._clock.now().timestamp() + again) * 1000))
            lane.in_flight -= 1
            self._in_flight -= 1
            self.wake()


def judge(lane: Lane, permit: int, attempt: Attempt) -> None:
    """Tell an endpoint's breaker how an attempt ended; an answer that refuses one message shows that it works."""
    lane.count(attempt)
    ill = attempt.status is None or attempt.status >= 500 or attempt.status == 429  # noqa: PLR2004 - classes of HTTP
    if ill:
        lane.breaker.failure(permit, attempt.duration, attempt.reason or f"status {attempt.status}")
    else:
        lane.breaker.success(permit, attempt.duration)
