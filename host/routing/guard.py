"""The guard of deliveries: what stands around every one of one plugin. Places, breaker, time limits, measurement.

What others ask of the plugin has guards of its own (`host.routing.caller_guard`). Deliveries go to the runtime in
flights, some of them ahead: while the plugin does well, a few more than its places are on their way, so that it need
not wait for the host between one delivery and the next. The runtime begins them in the order in which they were handed
over, a place at a time. So the guard knows which of them have begun, as far as can be told from here: their time
counts from then on, they alone count as tried where the runtime dies, and what has not begun comes back when the
breaker opens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from host.routing.attempts import Attempt
from host.routing.deadlines import Deadlines
from host.routing.errors import HookTimeoutError, NoSuchDeliveryError
from host.routing.measures import HookMeasures
from host.runtime.errors import WorkerDiedError
from host.runtime.runtime import Runtime
from plugin_sdk.errors import Verdict
from plugin_sdk.resilience import Breaker, BreakerState

MAX_AHEAD: Final = 56
"""Deliveries that are on their way beyond the plugin's places."""
AHEAD_SECONDS: Final = 0.01
"""How long a plugin may be busy with what is on its way beyond its places: what is more urgent waits behind it."""
LEAST_WAIT: Final = 0.05
"""Seconds between two looks at a breaker that should let something through by now."""
_WEIGHT: Final = 0.05
"""How much the latest delivery counts in the mean duration."""
_LETS_ALL_THROUGH: Final = frozenset({BreakerState.CLOSED, BreakerState.DISABLED})

Landing = tuple[Attempt, Exception | None, float]
"""An attempt that ended: what was raised, or None, and the seconds that it took."""


class Owner(Protocol):
    """Whose attempts they are: a consumer."""

    key: str

    @property
    def priority(self) -> int:
        """Who goes first where owners wait: the higher."""
        ...

    @property
    def hook(self) -> str:
        """The hook that its deliveries enter."""
        ...

    def pump(self) -> None:
        """There may be room for its attempts."""
        ...

    def landed(self, landings: Sequence[Landing]) -> None:
        """Some of its attempts ended."""
        ...

    def recalled(self, attempts: Sequence[Attempt]) -> None:
        """Some of its attempts were not begun, and are to be made later."""
        ...

    def fail(self, error: Exception) -> None:
        """The host made a mistake with what it was told."""
        ...


class Guard:
    """The guard of one plugin's deliveries.

    Args:
        plugin: Whose hooks it guards.
        breaker: Lets deliveries through, or does not.
        places: Deliveries in flight at most.
        ahead: Deliveries that may be on their way beyond the places.
    """

    def __init__(self, plugin: str, *, breaker: Breaker, places: int, ahead: int = MAX_AHEAD) -> None:
        self.plugin = plugin
        self.breaker = breaker
        self.places = places
        self.measures: dict[str, HookMeasures] = {}
        self._most_ahead = ahead
        self._grown = 0  # by as many as went well since one failed: what fails is tried no more often for being ahead
        self._mean = 0.0
        self._order: deque[Attempt] = deque()  # not begun, or over
        self._not_begun = 0
        self._deadlines = Deadlines(self._expired)
        self._waiting: dict[Owner, None] = {}
        self._giving_turns = self._landing = False
        self._loop = asyncio.get_running_loop()
        self._probing: asyncio.TimerHandle | None = None
        breaker.listen(self._breaker_changed)

    # -- admission

    @property
    def in_flight(self) -> int:
        """Deliveries that the plugin is busy with."""
        return self._deadlines.count

    @property
    def waiting(self) -> int:
        """Owners that wait for room."""
        return len(self._waiting)

    def room(self, owner: Owner) -> int:
        """How many attempts of an owner there is room for now. Where there is none, it is pumped once there may be.

        Who wants room waits behind whom has a higher priority; equals share.
        """
        free = self._free()
        rivals = 1
        if free > 0:
            for other in self._waiting:
                if other is not owner:
                    if other.priority > owner.priority:
                        free = 0
                        break
                    rivals += other.priority == owner.priority
        if free <= 0:
            if self.breaker.state not in _LETS_ALL_THROUGH and not self.breaker.probes():
                self.breaker.try_acquire()  # to be counted among its rejections
            self._waiting[owner] = None
            self._probe_later()
            return 0
        return -(-free // rivals)

    def forget(self, owner: Owner) -> None:
        """An owner wants no more room."""
        self._waiting.pop(owner, None)

    def admit(self, attempts: Sequence[Attempt]) -> None:
        """Take up attempts that there is room for; they are about to be handed to the runtime, in this order."""
        acquire = self.breaker.try_acquire
        for attempt in attempts:
            token = acquire()
            if token is None:
                raise LookupError(f"{self.plugin}: more deliveries than its breaker lets through")
            attempt.token = token
        self._order.extend(attempts)
        self._not_begun += len(attempts)
        self._fill()

    # -- what becomes of them

    def landed(self, landings: Sequence[Landing]) -> None:
        """Attempts ended: tell breaker, measures and owners, and let others in."""
        owners: dict[Owner, list[Landing]] = {}
        untried: list[Attempt] = []
        failed: Runtime | None = None
        self._landing = True
        for landing in landings:
            attempt, error, seconds = landing
            if attempt.over:
                continue
            if not attempt.begun and isinstance(error, WorkerDiedError):
                untried.append(attempt)
                continue
            self._leave(attempt)
            if self._judge(attempt, error, seconds):
                failed = attempt.runtime
            owners.setdefault(attempt.owner, []).append(landing)
        self._landing = False
        self._give_back(untried)
        if failed is not None:
            self._after_failure(failed)
        self._fill()
        for owner, ended in owners.items():
            try:
                owner.landed(ended)
            except Exception as mistake:  # noqa: BLE001 - logged there: its own end, and nobody else's
                owner.fail(mistake)
        self._give_turns()
        for owner in owners:
            owner.pump()

    def recalled(self, attempts: Sequence[Attempt]) -> None:
        """Attempts were not begun: their owners make them later."""
        owners = self._give_back(attempts)
        self._fill()
        self._give_turns()
        for owner in owners:
            owner.pump()

    def refused(self, attempts: Sequence[Attempt]) -> None:
        """No runtime took these attempts: they are made once there is one."""
        self._give_back(attempts)
        self._fill()

    def cancel(self, attempt: Attempt) -> None:
        """End an attempt that nobody wants any more: it counts for nothing, and its owner hears nothing."""
        if attempt.over:
            return
        if attempt.runtime is not None:
            attempt.runtime.cancel(attempt)
        self._leave(attempt)
        self.breaker.ignore(attempt.token)
        measures = self.measures.get(attempt.owner.hook)
        if measures is not None:
            measures.cancelled += 1
        self._fill()
        self._loop.call_soon(self._give_turns)

    def extend(self, delivery_id: str) -> None:
        """Start the time limit of a running delivery anew.

        Raises:
            NoSuchDeliveryError: it is not running (any more).
        """
        for attempt in self._deadlines:
            if delivery_id == f"{attempt.owner.key}/{attempt.stored.sequence}":
                self._deadlines.restart(attempt)
                return
        raise NoSuchDeliveryError(f"delivery {delivery_id} is not running: its time may have been up already")

    # -- inside

    def _free(self) -> int:
        breaker = self.breaker
        on_the_way = self._deadlines.count + self._not_begun
        if breaker.state in _LETS_ALL_THROUGH:
            return self.places + self._ahead() - on_the_way
        return min(self.places - on_the_way, breaker.probes())

    def _ahead(self) -> int:
        """How many may be on their way beyond the places."""
        if self._mean * self._grown <= AHEAD_SECONDS * self.places:
            return self._grown
        return int(AHEAD_SECONDS * self.places / self._mean)

    def _fill(self) -> None:
        """Note which attempts have begun: the next in order, as far as there are places."""
        order, deadlines = self._order, self._deadlines
        while order and deadlines.count < self.places:
            attempt = order.popleft()
            if not attempt.over:
                attempt.begun = True
                self._not_begun -= 1
                deadlines.start(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """An attempt holds no place any more."""
        attempt.over = True
        if attempt.begun:
            self._deadlines.end(attempt)
        else:
            self._not_begun -= 1

    def _give_back(self, attempts: Sequence[Attempt]) -> Iterable[Owner]:
        """Attempts that were not made go back to their owners; the owners."""
        owners: dict[Owner, list[Attempt]] = {}
        for attempt in attempts:
            if not attempt.over:
                self._leave(attempt)
                self.breaker.ignore(attempt.token)
                owners.setdefault(attempt.owner, []).append(attempt)
        for owner, back in owners.items():
            owner.recalled(back)
        return owners

    def _judge(self, attempt: Attempt, error: Exception | None, seconds: float) -> bool:
        """Tell breaker and measures how an attempt ended; whether that is a failure."""
        hook = attempt.owner.hook
        measures = self.measures.get(hook)
        if measures is None:
            measures = self.measures[hook] = HookMeasures()
        measures.time(seconds)
        if error is None:
            measures.succeeded += 1
            self.breaker.success(attempt.token, seconds)
            if self._grown < self._most_ahead:
                self._grown += 1
            self._mean += (seconds - self._mean) * _WEIGHT
            return False
        if isinstance(error, Verdict):
            measures.decided += 1
            self.breaker.ignore(attempt.token)
            return False
        if isinstance(error, HookTimeoutError):
            measures.timed_out += 1
        else:
            measures.failed += 1
        self.breaker.failure(attempt.token, seconds, f"{type(error).__name__}: {error}")
        self._grown = 0
        return True

    def _after_failure(self, runtime: Runtime) -> None:
        """The runtime begins nothing before it hears what is to follow."""
        if self.breaker.state in _LETS_ALL_THROUGH:
            runtime.go_on()
        else:
            self._recall(runtime)

    def _recall(self, runtime: Runtime) -> None:
        runtime.recall([one for one in self._order if not one.over and one.runtime is runtime])

    def _expired(self, attempt: Attempt) -> None:
        if attempt.runtime is not None:
            attempt.runtime.cancel(attempt)
        error = HookTimeoutError(f"{self.plugin}: the hook did not end within {attempt.timeout:g} s")
        self.landed([(attempt, error, attempt.timeout)])

    def _breaker_changed(self, _old: BreakerState, new: BreakerState, _reason: str) -> None:
        if new in {BreakerState.OPEN, BreakerState.FORCED_OPEN}:
            if not self._landing:  # an operator's word; else it is asked for once all that landed is told
                for runtime in {one.runtime for one in self._order if one.runtime is not None}:
                    self._recall(runtime)
        else:
            self._loop.call_soon(self._give_turns)

    def _give_turns(self) -> None:
        """Have those who wait make attempts, as far as there is room: by priority, then who came first."""
        if self._giving_turns or not self._waiting:
            return
        self._giving_turns = True
        try:
            for owner in sorted(self._waiting, key=lambda one: -one.priority):
                if self._free() <= 0:
                    break
                if owner in self._waiting:
                    del self._waiting[owner]
                    owner.pump()
        finally:
            self._giving_turns = False
        if self._waiting:
            self._probe_later()

    def _probe_later(self) -> None:
        """Look again once time alone may have changed what the breaker lets through."""
        if self._probing is None and (wait := self.breaker.wait_hint()) is not None:
            self._probing = self._loop.call_later(max(wait, LEAST_WAIT), self._look_again)

    def _look_again(self) -> None:
        self._probing = None
        self._give_turns()
