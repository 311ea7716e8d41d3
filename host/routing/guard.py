"""The guard of deliveries: what stands around every one of one plugin. Bulkhead, breaker, timeout, measurement.

What others ask of the plugin has guards of its own (`host.routing.caller_guard`). This one is on the path of every
delivery, so its ordinary case is plain function calls: no task, no timer and no context manager is made for a hook that
ends without waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from host.routing.errors import HookTimeoutError, NoSuchDeliveryError
from host.routing.measures import HookMeasures
from host.runtime.errors import NotRunningError
from plugin_sdk.clock import Clock
from plugin_sdk.errors import Verdict
from plugin_sdk.resilience import Breaker, BreakerState, Bulkhead
from plugin_sdk.resumed import Resumed

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Permit:
    """Leave to make one call: a place in the bulkhead and the breaker's consent. Used up by `Guard.run`."""

    __slots__ = ("_guard", "token")

    def __init__(self, guard: Guard, token: int) -> None:
        self._guard = guard
        self.token = token

    def give_back(self) -> None:
        """Let go of it without a call."""
        self._guard.ignore(self)


class Guard:
    """The guard of one plugin's deliveries.

    Args:
        plugin: Whose hooks it guards.
        breaker: Lets calls through, or does not.
        bulkhead: Bounds the calls in flight.
        clock: Measures.
    """

    def __init__(self, plugin: str, *, breaker: Breaker, bulkhead: Bulkhead, clock: Clock) -> None:
        self.plugin = plugin
        self.breaker = breaker
        self.bulkhead = bulkhead
        self.measures: dict[str, HookMeasures] = {}
        self._now = clock.monotonic
        self._changed = asyncio.Event()
        self._deadlines: dict[str, _Deadline | BegunCall | None] = {}
        breaker.listen(self._breaker_changed)

    # -- admission

    def admit_now(self) -> Permit | None:
        """A permit where nobody has to wait for it; else None."""
        if self.bulkhead.try_acquire():
            token = self.breaker.try_acquire()
            if token is not None:
                return Permit(self, token)
            self.bulkhead.release()
        return None

    async def admit(self, priority: int = 0) -> Permit:
        """A permit as soon as there is one, for a delivery that can wait; waiting is no attempt.

        Of those who wait for a place in the bulkhead, the highest `priority` gets it.
        """
        permit = self.admit_now()
        if permit is not None:
            return permit
        await self.bulkhead.acquire(priority)
        try:
            while (token := self.breaker.try_acquire()) is None:
                self._changed.clear()
                try:
                    async with asyncio.timeout(self.breaker.wait_hint()):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        except BaseException:  # whatever ended the wait: the place is given back; raised again
            self.bulkhead.release()
            raise
        return Permit(self, token)

    def ignore(self, permit: Permit) -> None:
        """Give a permit back: there was no call, or one that says nothing about the plugin."""
        self.breaker.ignore(permit.token)
        self.bulkhead.release()
        self._changed.set()

    # -- the call

    async def run(
        self,
        permit: Permit,
        invoke: Callable[[], Awaitable[T]],
        hook: str,
        timeout: float,  # noqa: ASYNC109 - it can be extended while the hook runs, which asyncio.timeout cannot
        delivery_id: str | None = None,
    ) -> T:
        """Make the call within `timeout` seconds, and tell breaker and measures how it ended.

        What `invoke` raises comes out unchanged. `Retry`, `Drop` and `DeadLetter` are decisions of a healthy
        plugin, and a cancellation is the host's own doing: neither counts for the breaker.

        Raises:
            HookTimeoutError: the time was up; the call was cancelled.
        """
        measures = self.measures.get(hook)
        if measures is None:
            measures = self.measures[hook] = HookMeasures()
        if delivery_id is not None:
            self._deadlines[delivery_id] = None
        started = self._now()
        try:
            # The call's first step is driven here, within the current task: a hook that never waits is then
            # done, and needs no timer. One that waits goes on in `Resumed`, from where the first step stopped.
            call = invoke().__await__()
            try:
                waiting = next(call)
            except StopIteration as done:
                result: T = done.value
            else:
                deadline = _Deadline(timeout)
                if delivery_id is not None:
                    self._deadlines[delivery_id] = deadline
                try:
                    result = await Resumed(call, waiting)
                except asyncio.CancelledError:
                    if deadline.end():
                        raise HookTimeoutError(f"{self.plugin}: {hook} did not end within {timeout:g} s") from None
                    raise
                except BaseException:  # the time limit goes however the hook ended; raised again
                    deadline.end()
                    raise
                deadline.end()
        except asyncio.CancelledError:
            measures.cancelled += 1
            self.ignore(permit)
            raise
        except BaseException as error:  # whatever a hook raises counts; raised again
            self._ended(permit, measures, started, error)
            raise
        finally:
            if delivery_id is not None:
                self._deadlines.pop(delivery_id, None)
        self._ended(permit, measures, started, None)
        return result

    def begin(
        self,
        permit: Permit,
        invoke: Callable[[Callable[[BaseException | None], None]], Callable[[], None] | None],
        hook: str,
        timeout: float,
        delivery_id: str,
        ended: Callable[[BaseException | None], None],
    ) -> BegunCall | None:
        """As `run`, for a call that needs no task: `ended` is told what was raised, or None.

        `invoke` begins the call and answers how to cancel it, as `Runtime.begin`. Where it answers None nothing was
        begun, the permit is still the caller's, and so is the answer here.
        """
        measures = self.measures.get(hook)
        if measures is None:
            measures = self.measures[hook] = HookMeasures()
        call = BegunCall(self, permit, measures, self._now(), timeout, delivery_id, ended)
        try:
            cancel = invoke(call.end)
        except Exception as error:  # noqa: BLE001 - whatever keeps a call from beginning is how it ended
            call.end(error)
            return call
        if cancel is None:
            return None
        call.begun(cancel)
        self._deadlines[delivery_id] = call
        return call

    def settle(self, call: BegunCall, error: BaseException | None) -> None:
        """A call that was begun is over."""
        self._deadlines.pop(call.delivery_id, None)
        self._ended(call.permit, call.measures, call.started, error)

    def drop(self, call: BegunCall) -> None:
        """A call that was begun is cancelled by the host."""
        self._deadlines.pop(call.delivery_id, None)
        call.measures.cancelled += 1
        self.ignore(call.permit)

    def _ended(self, permit: Permit, measures: HookMeasures, started: float, error: BaseException | None) -> None:
        """Tell breaker and measures how a call ended that was not cancelled."""
        if isinstance(error, NotRunningError):
            measures.cancelled += 1
            self.ignore(permit)  # no runtime took the call: that says nothing about the plugin's code
            return
        duration = self._now() - started
        measures.time(duration)
        if error is None:
            measures.succeeded += 1
            self.breaker.success(permit.token, duration)
            self.bulkhead.release()
        elif isinstance(error, Verdict):
            measures.decided += 1
            self.ignore(permit)
        else:
            if isinstance(error, HookTimeoutError):
                measures.timed_out += 1
            else:
                measures.failed += 1
            self.breaker.failure(permit.token, duration, f"{type(error).__name__}: {error}")
            self.bulkhead.release()

    def extend(self, delivery_id: str) -> None:
        """Start the time limit of a running delivery anew.

        Raises:
            NoSuchDeliveryError: it is not running (any more).
        """
        if delivery_id not in self._deadlines:
            raise NoSuchDeliveryError(f"delivery {delivery_id} is not running: its time may have been up already")
        deadline = self._deadlines[delivery_id]
        if deadline is not None:
            deadline.restart()

    def _breaker_changed(self, _old: BreakerState, _new: BreakerState, _reason: str) -> None:
        self._changed.set()


class BegunCall:
    """A call that goes on without a task: its time limit, and how it is ended."""

    __slots__ = (
        "_cancel",
        "_ended",
        "_guard",
        "_over",
        "_timeout",
        "_timer",
        "delivery_id",
        "measures",
        "permit",
        "started",
    )

    def __init__(
        self,
        guard: Guard,
        permit: Permit,
        measures: HookMeasures,
        started: float,
        timeout: float,
        delivery_id: str,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._guard = guard
        self.permit = permit
        self.measures = measures
        self.started = started
        self.delivery_id = delivery_id
        self._timeout = timeout
        self._ended = ended
        self._cancel: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether it ended."""
        return self._over

    def begun(self, cancel: Callable[[], None]) -> None:
        """It is under way, and `cancel` ends it: count its time."""
        self._cancel = cancel
        if not self._over:
            self._timer = asyncio.get_running_loop().call_later(self._timeout, self._expire)

    def restart(self) -> None:
        """Count its time from now again."""
        if self._timer is not None and not self._over:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._timeout, self._expire)

    def end(self, error: BaseException | None) -> None:
        """It ended by itself: tell the guard, and whoever began it."""
        if self._stop():
            self._guard.settle(self, error)
            try:
                self._ended(error)
            except Exception:  # noqa: BLE001 - logged with its traceback
                # It is called from the worker's wire, which must go on whatever becomes of one call.
                _log.exception("call_not_settled", plugin=self._guard.plugin, delivery=self.delivery_id)

    def abort(self) -> None:
        """Cancel it because the host stops; nobody is told, and it counts for nothing."""
        if self._stop():
            if self._cancel is not None:
                self._cancel()
            self._guard.drop(self)

    def _expire(self) -> None:
        if not self._over:
            if self._cancel is not None:
                self._cancel()
            self.end(HookTimeoutError(f"{self._guard.plugin}: the hook did not end within {self._timeout:g} s"))

    def _stop(self) -> bool:
        """Whether it was not over yet; it is now."""
        if self._over:
            return False
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        return True


class _Deadline:
    """A time limit on the current task that can be started anew; as `asyncio.timeout`, in fewer calls."""

    __slots__ = ("_cancelled", "_expired", "_loop", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        """Count from now, against the task that makes this."""
        self._seconds = seconds
        self._expired = False
        self._loop = loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task(loop)
        self._cancelled = 0 if task is None else task.cancelling()
        self._timer = loop.call_later(seconds, self._expire)

    def restart(self) -> None:
        """Count from now again."""
        if not self._expired:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._seconds, self._expire)

    def end(self) -> bool:
        """The call ended, once; whether a cancellation that came with it was this limit's and nobody else's."""
        self._timer.cancel()
        if not self._expired or self._task is None:
            return False
        return self._task.uncancel() <= self._cancelled

    def _expire(self) -> None:
        self._expired = True
        if self._task is not None:
            self._task.cancel()
