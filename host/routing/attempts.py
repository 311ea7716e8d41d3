"""One attempt at a delivery, and what becomes of it by the subscription's policy."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from host.errors import BusbarError
from host.routing.event_log import Outcome, Settlement, StoredEvent
from host.routing.subscriptions import BoundSubscription
from host.runtime.runtime import Runtime
from plugin_sdk.clock import Clock
from plugin_sdk.errors import DeadLetter, Drop, Retry

if TYPE_CHECKING:
    from host.routing.guard import Owner

REFUSED_SECONDS: Final = 0.5
"""Wait before a delivery that could not be tried is tried again."""
NO_ROOM: Final = "there is no room for another dead letter, decide on some: "
MAX_INSTANT: Final = 64
EXPIRY: Final = "expirytime"
"""The CloudEvents extension (Expiry Time) after which an event is of no use."""


class Attempt:
    """One attempt at one delivery, from its admission to its outcome.

    Attributes:
        owner: Who makes it.
        stored: The event.
        attempt: The how manieth it is.
        last: What came of the one before.
        noted: Whether the delivery has a row in the retry table.
        timeout: Seconds that it may take.
        begun: Whether the plugin has begun it, as far as can be told in the host.
        over: Whether it ended, or is not wanted any more.
        runtime: What has it in its hands; None before.
        number: The runtime's own name for it.
        token: The breaker's.
    """

    __slots__ = (
        "attempt", "begun", "last", "noted", "number", "over", "owner", "runtime", "stored", "timeout", "token"
    )  # fmt: skip

    def __init__(
        self, owner: Owner, stored: StoredEvent, attempt: int, timeout: float, *, last: str = "", noted: bool = False
    ) -> None:
        self.owner = owner
        self.stored = stored
        self.attempt = attempt
        self.timeout = timeout
        self.last = last
        self.noted = noted
        self.begun = self.over = False
        self.runtime: Runtime | None = None
        self.number = self.token = 0


class Outcomes:
    """What becomes of the attempts at the deliveries of one subscription.

    Args:
        subscription: Its policy decides.
        clock: For ages, durations and due times.
        rng: For the jitter of retries.
        letters_full: Whether the plugin has as many dead letters as are kept; then nothing more is given up on.
    """

    def __init__(
        self,
        subscription: BoundSubscription,
        *,
        clock: Clock,
        rng: random.Random,
        letters_full: Callable[[], bool],
    ) -> None:
        self._subscription = subscription
        self._subscription_id = subscription.id
        self._policy = subscription.policy
        self._retry = subscription.policy.retry
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

    def of(self, made: Attempt, error: Exception | None, started_at: float, duration: float) -> Settlement:
        """What becomes of an attempt that raised `error`, or nothing."""
        stored, attempt, noted = made.stored, made.attempt, made.noted
        if error is None:
            subscription = self._subscription_id, self._subscription.plugin
            return Settlement(*subscription, stored, attempt, Outcome.DELIVERED, started_at, duration, noted=noted)
        reason, traceback = "", ""
        asked: float | None = None
        if isinstance(error, Retry):
            outcome, reason = Outcome.RETRIED, error.reason or "the plugin asked"
            if error.after is not None:
                asked = min(max(error.after, 0.0), self._policy.longest_asked)
        elif isinstance(error, Drop):
            outcome, reason = Outcome.DROPPED, error.reason
        elif isinstance(error, DeadLetter):
            outcome, reason = Outcome.DEAD_LETTERED, error.reason
        else:
            outcome, reason = Outcome.RETRIED, _named(error)
            traceback = getattr(error, "traceback", "")
        if outcome is Outcome.RETRIED and attempt >= self._policy.attempts:
            outcome, reason = Outcome.DEAD_LETTERED, f"gave up after {attempt} attempts: {reason}"
        return self._settled(stored, attempt, outcome, reason, traceback, started_at, duration, asked, noted=noted)

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
            subscription=self._subscription_id,
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
