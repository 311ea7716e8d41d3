"""One attempt at a delivery: the hook is called, and what it did becomes an outcome by the subscription's policy."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from host.errors import BusbarError
from host.routing.admission import Target
from host.routing.event_log import Outcome, Settlement, StoredEvent
from host.routing.guard import BegunCall, Guard, Permit
from host.routing.subscriptions import BoundSubscription
from host.runtime.errors import HookFailedError, NotRunningError
from plugin_sdk.calls import HookCall
from plugin_sdk.clock import Clock
from plugin_sdk.errors import DeadLetter, Drop, Retry

REFUSED_SECONDS: Final = 0.5
"""Wait before a delivery that no runtime took is offered again."""
NO_ROOM: Final = "there is no room for another dead letter, decide on some: "
MAX_INSTANT: Final = 64
EXPIRY: Final = "expirytime"
"""The CloudEvents extension (Expiry Time) after which an event is of no use."""


class Attempts:
    """Makes attempts at the deliveries of one subscription.

    Args:
        subscription: Its policy decides.
        guard: Stands around the hook.
        target: The plugin's runtime.
        clock: For ages, durations and due times.
        rng: For the jitter of retries.
        letters_full: Whether the plugin has as many dead letters as are kept; then nothing more is given up on.
    """

    def __init__(
        self,
        subscription: BoundSubscription,
        *,
        guard: Guard,
        target: Target,
        clock: Clock,
        rng: random.Random,
        letters_full: Callable[[], bool],
    ) -> None:
        self._subscription = subscription
        self._policy = subscription.policy
        self._retry = subscription.policy.retry
        self._guard = guard
        self._target = target
        self._clock = clock
        self._rng = rng
        self._letters_full = letters_full

    def beyond(self, stored: StoredEvent, attempt: int, last: str) -> str:
        """Why the delivery is given up without attempt number `attempt`; empty where it is not.

        `last` is what came of the attempt before.
        """
        if attempt > self._policy.attempts:
            return last.removeprefix(NO_ROOM) or "the host or the worker stopped during the last attempt"
        now = self._clock.now().timestamp()
        longest = self._policy.max_age
        if longest is not None and now - stored.appended_at > longest:
            return f"expired: it waited longer than the {longest:g} s that the subscription allows"
        if self._subscription.replay is None and stored.event.extensions:
            expiry = stored.event.extensions.get(EXPIRY)
            if expiry is not None and (instant := _instant(str(expiry))) is not None and now > instant:
                return f"expired: its {EXPIRY} was {expiry}"
        return ""

    async def make(self, stored: StoredEvent, attempt: int, permit: Permit, *, noted: bool) -> Settlement:
        """Call the hook; the outcome, `noted` among it. Only a cancellation is raised."""
        subscription = self._subscription
        started_at = self._clock.now().timestamp()
        started = self._clock.monotonic()
        failure: Exception | None = None
        try:
            await self._guard.run(
                permit,
                lambda: self._target.call(self._call(stored, attempt)),
                subscription.hook,
                subscription.timeout_of(stored),
                subscription.delivery_id(stored),
            )
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is an outcome, never the host's end
            failure = error
        return self._outcome(stored, attempt, failure, started_at, self._clock.monotonic() - started, noted=noted)

    def begin(
        self,
        stored: StoredEvent,
        attempt: int,
        permit: Permit,
        ended: Callable[[Settlement], None],
        failed: Callable[[Exception], None],
        *,
        noted: bool,
    ) -> BegunCall | None:
        """As `make`, without a task: `ended` gets the outcome. None where the runtime takes one: nothing was begun.

        `failed` hears what goes wrong in the host while the outcome is made or taken: nobody else would.
        """
        subscription = self._subscription
        started_at = self._clock.now().timestamp()
        started = self._clock.monotonic()

        def settle(error: BaseException | None) -> None:
            duration = self._clock.monotonic() - started
            try:
                ended(self._outcome(stored, attempt, error, started_at, duration, noted=noted))
            except Exception as mistake:  # noqa: BLE001 - the host's own; logged by whoever hears of it
                failed(mistake)

        return self._guard.begin(
            permit,
            lambda end: self._target.begin(self._call(stored, attempt), end),
            subscription.hook,
            subscription.timeout_of(stored),
            subscription.delivery_id(stored),
            settle,
        )

    def _call(self, stored: StoredEvent, attempt: int) -> HookCall:
        """The hook call that hands the event over; made within the guard, where whatever it raises is an outcome."""
        try:
            return self._subscription.call_for(stored, attempt)
        except Exception as error:  # noqa: BLE001 - said in the dead letter; the events behind it go on
            raise DeadLetter(f"no call can be made of this event: {type(error).__name__}: {error}") from None

    def _outcome(
        self,
        stored: StoredEvent,
        attempt: int,
        error: BaseException | None,
        started_at: float,
        duration: float,
        *,
        noted: bool,
    ) -> Settlement:
        """What becomes of an attempt that raised `error`, or nothing."""
        outcome, reason, traceback = Outcome.DELIVERED, "", ""
        asked: float | None = None
        if error is None:
            pass
        elif isinstance(error, Retry):
            outcome, reason = Outcome.RETRIED, error.reason or "the plugin asked"
            if error.after is not None:
                asked = min(max(error.after, 0.0), self._policy.longest_asked)
        elif isinstance(error, Drop):
            outcome, reason = Outcome.DROPPED, error.reason
        elif isinstance(error, DeadLetter):
            outcome, reason = Outcome.DEAD_LETTERED, error.reason
        elif isinstance(error, NotRunningError):
            outcome, reason, asked, attempt = Outcome.RETRIED, error.message, REFUSED_SECONDS, attempt - 1
        else:
            outcome, reason = Outcome.RETRIED, _named(error)
            traceback = getattr(error, "traceback", "")
        if outcome is Outcome.RETRIED and attempt >= self._policy.attempts:
            outcome, reason = Outcome.DEAD_LETTERED, f"gave up after {attempt} attempts: {reason}"
        return self._settled(stored, attempt, outcome, reason, traceback, started_at, duration, asked, noted=noted)

    def cancelled(self, stored: StoredEvent, attempt: int, *, noted: bool) -> Settlement:
        """The outcome of an attempt whose hook cancelled the task that it ran in, which only an inline one can."""
        now = self._clock.now().timestamp()
        error = HookFailedError("CancelledError", "the hook cancelled its own task")
        return self._outcome(stored, attempt, error, now, 0.0, noted=noted)

    def give_up(self, stored: StoredEvent, attempts: int, reason: str, *, noted: bool) -> Settlement:
        """The outcome of a delivery that is not tried (again), after `attempts` attempts."""
        now = self._clock.now().timestamp()
        return self._settled(stored, attempts, Outcome.DEAD_LETTERED, reason, "", now, 0.0, None, noted=noted)

    def put_off(self, stored: StoredEvent, attempts: int, reason: str, *, noted: bool) -> Settlement:
        """The outcome of a delivery that could not be tried now, after `attempts` attempts."""
        now = self._clock.now().timestamp()
        return self._settled(stored, attempts, Outcome.RETRIED, reason, "", now, 0.0, REFUSED_SECONDS, noted=noted)

    def drop(self, stored: StoredEvent, attempt: int, reason: str, *, noted: bool) -> Settlement:
        """The outcome of an attempt that is no longer wanted."""
        now = self._clock.now().timestamp()
        return self._settled(stored, attempt, Outcome.DROPPED, reason, "", now, 0.0, None, noted=noted)

    def _settled(
        self,
        stored: StoredEvent,
        attempt: int,
        outcome: Outcome,
        reason: str,
        traceback: str,
        started_at: float,
        duration: float,
        asked: float | None,
        *,
        noted: bool,
    ) -> Settlement:
        retry_at = None
        if outcome is Outcome.DEAD_LETTERED:
            if self._policy.dead_letters == "discard":
                outcome, reason = Outcome.DROPPED, f"discarded by policy: {reason}"
            elif self._letters_full():
                # Nothing that is to be kept is lost: the delivery waits until a person has made room.
                outcome, asked = Outcome.RETRIED, self._retry.longest
                reason = NO_ROOM + reason
        if outcome is Outcome.RETRIED:
            delay = self._retry.delay(max(attempt, 1), rng=self._rng) if asked is None else asked
            retry_at = self._clock.now().timestamp() + delay
        return Settlement(
            subscription=self._subscription.id,
            plugin=self._subscription.plugin,
            stored=stored,
            attempt=attempt,
            outcome=outcome,
            started_at=started_at,
            duration=duration,
            error=reason,
            traceback=traceback,
            retry_at=retry_at,
            noted=noted,
        )


def _named(error: BaseException) -> str:
    if isinstance(error, BusbarError):
        return error.message
    return f"{type(error).__name__}: {error}"


def _instant(text: str) -> float | None:
    # Nothing longer is an instant, and what is remembered must be short.
    return _parsed(text) if len(text) <= MAX_INSTANT else None


@lru_cache(maxsize=1024)
def _parsed(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
