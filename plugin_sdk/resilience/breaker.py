"""The circuit breaker.

It follows resilience4j's semantics (https://resilience4j.readme.io/docs/circuitbreaker): a call can be slow and failed,
rates are judged only from a minimum of calls, half-open admits a counted number of probes and judges when all have
ended, an ignored outcome gives its permit back. Differences: consecutive failures open it too, and the open time
doubles each time that probes fail. It decides by a `Clock` passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from plugin_sdk.clock import Clock
from plugin_sdk.resilience.numbers import check

BUCKETS: Final = 10
"""Parts of the sliding window; outcomes leave it a part at a time, so memory does not grow with calls."""


class BreakerState(Enum):
    """The states of a breaker, as the API names them."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    FORCED_OPEN = "forced-open"
    DISABLED = "disabled"


_TRANSITIONS: Final = {
    BreakerState.CLOSED: {BreakerState.OPEN, BreakerState.FORCED_OPEN, BreakerState.DISABLED},
    BreakerState.OPEN: {
        BreakerState.HALF_OPEN,
        BreakerState.CLOSED,
        BreakerState.FORCED_OPEN,
        BreakerState.DISABLED,
    },
    BreakerState.HALF_OPEN: {
        BreakerState.OPEN,
        BreakerState.CLOSED,
        BreakerState.FORCED_OPEN,
        BreakerState.DISABLED,
    },
    BreakerState.FORCED_OPEN: {BreakerState.CLOSED, BreakerState.DISABLED},
    BreakerState.DISABLED: {BreakerState.CLOSED, BreakerState.FORCED_OPEN},
}


class IllegalTransitionError(RuntimeError):
    """A breaker was asked for a change that its state does not allow."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and closes. Times are in seconds, rates from 0 to 1.

    Args:
        consecutive_failures: So many failures in a row open it.
        window: How far back rates look.
        minimum_calls: Rates count from so many calls in the window.
        failure_rate: Opens at this share of failed calls.
        slow_call: A call that takes longer than this is slow.
        slow_call_rate: Opens at this share of slow calls.
        open_for: The first open time; doubles each time that probes fail, up to `longest_open`.
        longest_open: The bound of the open time.
        probes: Calls that half-open admits; it is judged when all have ended.
        half_open_for: Probes that have not ended by then count as failed; counted from when the first of them was let
            through, so that a breaker whose plugin is called rarely closes, too.
        jitter: Share by which an open time is lengthened at random, so that breakers do not probe in step.
    """

    consecutive_failures: int = 5
    window: float = 10.0
    minimum_calls: int = 10
    failure_rate: float = 0.5
    slow_call: float = 5.0
    slow_call_rate: float = 1.0
    open_for: float = 60.0
    longest_open: float = 600.0
    probes: int = 3
    half_open_for: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        """Refuse with a `ValueError` what would be found out only when a breaker has to open, or never closes."""
        for name in ("consecutive_failures", "minimum_calls", "probes"):
            check(self, name, 1)
        for name in ("window", "slow_call", "open_for", "longest_open", "half_open_for"):
            check(self, name, 0, above=True)
        for name in ("failure_rate", "slow_call_rate"):
            check(self, name, 0, 1, above=True)
        check(self, "jitter", 0, 1)


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """A breaker at one instant.

    `since` and `next_attempt_at` are seconds since the epoch; rates are None below the minimum of calls.
    """

    state: BreakerState
    since: float
    reason: str
    consecutive_failures: int
    calls: int
    failure_rate: float | None
    slow_call_rate: float | None
    rejected: int
    next_attempt_at: float | None


class _Window:
    """Counts of calls, failures and slow calls over the last `seconds`, in a ring of buckets."""

    __slots__ = ("_at", "_calls", "_failed", "_slow", "_span", "calls", "failed", "slow")

    def __init__(self, seconds: float) -> None:
        self._span = seconds / BUCKETS
        self._at = 0
        self.clear()

    def clear(self) -> None:
        self._calls = [0] * BUCKETS
        self._failed = [0] * BUCKETS
        self._slow = [0] * BUCKETS
        self.calls = self.failed = self.slow = 0

    def turn(self, now: float) -> int:
        """Drop what has left the window; the index of the current bucket."""
        at = int(now / self._span)
        passed = at - self._at
        if passed > 0:
            for bucket in range(self._at + 1, self._at + 1 + min(passed, BUCKETS)):
                index = bucket % BUCKETS
                self.calls -= self._calls[index]
                self.failed -= self._failed[index]
                self.slow -= self._slow[index]
                self._calls[index] = self._failed[index] = self._slow[index] = 0
            self._at = at
        return self._at % BUCKETS

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        index = self.turn(now)
        self._calls[index] += 1
        self.calls += 1
        if failed:
            self._failed[index] += 1
            self.failed += 1
        if slow:
            self._slow[index] += 1
            self.slow += 1


class Breaker:
    """A circuit breaker: ask `try_acquire` before a call, and tell it afterwards how the call ended.

    Args:
        policy: When it opens and closes.
        clock: Its time.
        rng: For the jitter of open times; None for none.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        *,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._rng = rng
        self._listeners: list[Callable[[BreakerState, BreakerState, str], None]] = []
        self.state = BreakerState.CLOSED
        self.reason = ""
        self._since = clock.now().timestamp()
        self._window = _Window(policy.window)
        self._consecutive = 0
        self._rejected = 0
        self._opens = 0
        self._deadline = 0.0  # of open or half-open, on the monotonic clock
        self._round = 0  # grows with each change, so that a late result is known by its permit
        self._probes_free = 0
        self._probes_good = 0
        self._probes_failed = 0
        self._probes_slow = 0

    def listen(self, changed: Callable[[BreakerState, BreakerState, str], None]) -> None:
        """Call `changed` at each change with the old state, the new one, and why."""
        self._listeners.append(changed)

    # -- around a call

    def try_acquire(self) -> int | None:
        """A permit for one call, or None where the breaker lets none through now.

        Every permit must be handed back to exactly one of `success`, `failure` and `ignore`.
        """
        if self.state is BreakerState.CLOSED or self.state is BreakerState.DISABLED:
            return self._round
        self.turn()
        if self.state is BreakerState.HALF_OPEN and self._probes_free > 0:
            if not self._probes_out:
                self._deadline = self._clock.monotonic() + self.policy.half_open_for
            self._probes_free -= 1
            return self._round
        self._rejected += 1
        return None

    def probes(self) -> int:
        """How many calls it lets through now, where it does not let all through."""
        self.turn()
        return self._probes_free if self.state is BreakerState.HALF_OPEN else 0

    def success(self, permit: int, duration: float) -> None:
        """The call ended well after `duration` seconds."""
        self._record(permit, duration, failed=False, reason="")

    def failure(self, permit: int, duration: float, reason: str) -> None:
        """The call failed after `duration` seconds."""
        self._record(permit, duration, failed=True, reason=reason)

    def ignore(self, permit: int) -> None:
        """The call says nothing about the callee (cancelled, or decided on purpose): as if it had not been."""
        if self.state is BreakerState.HALF_OPEN and permit == self._round:
            self._probes_free += 1

    # -- by hand

    def force_open(self, reason: str) -> None:
        """Let nothing through until someone says otherwise."""
        self._go(BreakerState.FORCED_OPEN, reason)

    def disable(self, reason: str) -> None:
        """Let everything through, and count nothing."""
        self._go(BreakerState.DISABLED, reason)

    def close(self, reason: str) -> None:
        """Close now and forget what was counted."""
        self._opens = 0
        self._go(BreakerState.CLOSED, reason)

    def auto(self, reason: str) -> None:
        """End an override; a breaker that decides by itself already is left alone."""
        if self.state in {BreakerState.FORCED_OPEN, BreakerState.DISABLED}:
            self.close(reason)

    # -- looking at it

    def turn(self) -> None:
        """Make the change that time alone brings: open to half-open, and half-open that took too long."""
        now = self._clock.monotonic()
        if self.state is BreakerState.OPEN and now >= self._deadline:
            self._go(BreakerState.HALF_OPEN, "the open time is over")
        elif self.state is BreakerState.HALF_OPEN and now >= self._deadline and self._probes_out:
            self._open(f"probes did not end within {self.policy.half_open_for:g} s")

    @property
    def _probes_out(self) -> int:
        """Probes that were let through and have not ended: a half-open breaker nobody calls is not at fault."""
        return self.policy.probes - self._probes_free - self._probes_good - self._probes_failed

    def wait_hint(self) -> float | None:
        """Seconds until time alone changes something; None where it does not."""
        if self.state is BreakerState.OPEN or self.state is BreakerState.HALF_OPEN:
            return max(0.0, self._deadline - self._clock.monotonic())
        return None

    def snapshot(self) -> BreakerSnapshot:
        """The breaker as it stands."""
        window = self._window
        window.turn(self._clock.monotonic())
        enough = window.calls >= self.policy.minimum_calls
        hint = self.wait_hint() if self.state is BreakerState.OPEN else None
        return BreakerSnapshot(
            state=self.state,
            since=self._since,
            reason=self.reason,
            consecutive_failures=self._consecutive,
            calls=window.calls,
            failure_rate=window.failed / window.calls if enough else None,
            slow_call_rate=window.slow / window.calls if enough else None,
            rejected=self._rejected,
            next_attempt_at=None if hint is None else self._clock.now().timestamp() + hint,
        )

    # -- inside

    def _record(self, permit: int, duration: float, *, failed: bool, reason: str) -> None:
        state = self.state
        if state is BreakerState.DISABLED:
            return
        policy = self.policy
        slow = duration > policy.slow_call
        if state is BreakerState.HALF_OPEN:
            if permit == self._round:
                self._judge_probe(failed=failed, slow=slow, reason=reason)
            return
        window = self._window
        window.add(self._clock.monotonic(), failed=failed, slow=slow)
        if failed:
            self._consecutive += 1
        elif self._consecutive:
            self._consecutive = 0
        if state is not BreakerState.CLOSED:
            return  # a late result: counted, but it changes nothing
        if failed and self._consecutive >= policy.consecutive_failures:
            self._open(f"{self._consecutive} failures in a row, the last: {reason}")
        elif window.calls >= policy.minimum_calls and (failed or slow):
            if window.failed >= policy.failure_rate * window.calls:
                self._open(f"{window.failed} of {window.calls} calls failed, the last: {reason}")
            elif window.slow >= policy.slow_call_rate * window.calls:
                self._open(f"{window.slow} of {window.calls} calls took over {policy.slow_call:g} s")

    def _judge_probe(self, *, failed: bool, slow: bool, reason: str) -> None:
        policy = self.policy
        self._probes_failed += failed
        self._probes_slow += slow
        self._probes_good += not failed
        if failed:
            self.reason = f"a probe failed: {reason}"
        ended = self._probes_failed + self._probes_good
        if ended < policy.probes:
            return
        if self._probes_failed >= policy.failure_rate * ended:
            self._open(f"{self._probes_failed} of {ended} probes failed, the last: {reason or self.reason}")
        elif self._probes_slow >= policy.slow_call_rate * ended:
            self._open(f"{self._probes_slow} of {ended} probes took over {policy.slow_call:g} s")
        else:
            self._opens = 0
            self._go(BreakerState.CLOSED, f"{self._probes_good} of {ended} probes went well")

    def _open(self, reason: str) -> None:
        policy = self.policy
        open_for = min(policy.open_for * 2.0 ** min(self._opens, 32), policy.longest_open)
        if self._rng is not None:
            open_for += open_for * policy.jitter * self._rng.random()
        self._opens += 1
        self._deadline = self._clock.monotonic() + open_for
        self._go(BreakerState.OPEN, reason)

    def _go(self, state: BreakerState, reason: str) -> None:
        old = self.state
        self.reason = reason
        if state is old:
            if state is BreakerState.CLOSED:
                self._reset()
            return
        if state not in _TRANSITIONS[old]:
            raise IllegalTransitionError(f"a breaker does not go from {old.value} to {state.value}")
        self.state = state
        self._since = self._clock.now().timestamp()
        self._round += 1
        if state is BreakerState.HALF_OPEN:
            self._probes_free = self.policy.probes
            self._probes_good = self._probes_failed = self._probes_slow = 0
            self._deadline = self._clock.monotonic() + self.policy.half_open_for
        elif state is BreakerState.CLOSED:
            self._reset()
        for listener in self._listeners:
            listener(old, state, reason)

    def _reset(self) -> None:
        self._window.clear()
        self._consecutive = 0
