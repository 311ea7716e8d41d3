"""The supervisor: starts a plugin's runtime, watches it, and starts it again when it ends. One for a plugin."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import structlog

from host.runtime.errors import NotRunningError, StartFailedError
from host.runtime.exits import ExitReason
from host.runtime.runtime import Runtime, RuntimeSnapshot
from plugin_sdk.calls import HookCall
from plugin_sdk.clock import Clock

_log = structlog.get_logger(__name__)


class SupervisedState(Enum):
    """The states of a supervised runtime."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    FAILED = "failed"
    STOPPING = "stopping"


_TRANSITIONS: Final = {
    SupervisedState.STOPPED: {SupervisedState.STARTING},
    SupervisedState.STARTING: {
        SupervisedState.RUNNING,
        SupervisedState.BACKING_OFF,
        SupervisedState.FAILED,
        SupervisedState.STOPPING,
    },
    SupervisedState.RUNNING: {SupervisedState.BACKING_OFF, SupervisedState.FAILED, SupervisedState.STOPPING},
    SupervisedState.BACKING_OFF: {SupervisedState.STARTING, SupervisedState.STOPPING},
    SupervisedState.FAILED: {SupervisedState.STOPPING},
    SupervisedState.STOPPING: {SupervisedState.STOPPED},
}


@dataclass(frozen=True, slots=True)
class SupervisionLimits:
    """All times in seconds.

    A runtime whose loop is silent for `silence` is killed, and so is one whose hook, that nobody else called, goes on
    for `overdue` after its time was up; it is looked at every `heartbeat`. After a failure it is started again after
    `first_restart`, doubled for each failure up to `longest_restart`, with jitter; `healthy_after` of running resets
    that. `restarts` within `restart_window` are enough: it is `failed`.
    """

    heartbeat: float = 0.5
    silence: float = 2.0
    start: float = 60.0
    stop_hook: float = 10.0
    term: float = 5.0
    first_restart: float = 1.0
    longest_restart: float = 60.0
    healthy_after: float = 10.0
    restarts: int = 5
    restart_window: float = 600.0
    overdue: float = 5.0

    def restart_delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after so many failures in a row (from 1)."""
        wait = min(self.first_restart * 2.0 ** min(failures - 1, 32), self.longest_restart)
        return min(wait * (1 + 0.2 * rng.random()), self.longest_restart)


@dataclass(frozen=True, slots=True)
class SupervisedStatus:
    """A state, since when (seconds since the epoch), why, and what comes next."""

    state: SupervisedState
    since: float
    cause: str = ""
    evidence: str = ""
    next_action: str = ""
    next_action_at: float | None = None


class Supervisor:
    """Keeps one plugin's runtime running.

    Args:
        plugin: Whose runtime it is.
        make_runtime: Makes a fresh runtime for each start.
        limits: The numbers.
        memory: Bytes of resident memory above which the worker is killed.
        clock: Its time.
        rng: For the jitter of restarts.
        on_change: Called after each change of state.
    """

    def __init__(
        self,
        plugin: str,
        *,
        make_runtime: Callable[[], Runtime],
        limits: SupervisionLimits,
        memory: int,
        clock: Clock,
        rng: random.Random,
        on_change: Callable[[], None],
    ) -> None:
        self._plugin = plugin
        self._make_runtime = make_runtime
        self._limits = limits
        self._memory = memory
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._runtime: Runtime | None = None
        self._task: asyncio.Task[None] | None = None
        self._runs = asyncio.Event()
        self._crashes: deque[float] = deque(maxlen=limits.restarts)
        self._failures = 0
        self.restarts = 0
        self.last_error = ""
        self.last_stack = ""
        self.status = SupervisedStatus(SupervisedState.STOPPED, clock.now().timestamp())

    # -- what others ask of it

    @property
    def running(self) -> bool:
        """Whether a call would reach the plugin now."""
        return self._runs.is_set()

    async def wait_running(self) -> None:
        """Wait until it runs; for ever, where it failed and nobody starts it again."""
        await self._runs.wait()

    def call(self, call: HookCall) -> Awaitable[Any]:
        """Enter a hook of the running plugin.

        Raises:
            NotRunningError: it does not run now. Otherwise as `Runtime.call`.
        """
        runtime = self._runtime
        if runtime is None or not self._runs.is_set():
            raise NotRunningError(f"{self._plugin} is {self.status.state.value}")
        return runtime.call(call)

    @property
    def runtime(self) -> Runtime | None:
        """What runs, while it runs."""
        return self._runtime if self._runs.is_set() else None

    def snapshot(self) -> RuntimeSnapshot | None:
        """How the runtime is, or None where there is none."""
        return None if self._runtime is None else self._runtime.snapshot()

    # -- life

    def start(self, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """Start it once `ready` has come back, and keep it running; returns at once, the state tells how it goes."""
        self._go(SupervisedState.STARTING, "enabled")
        self._task = asyncio.create_task(self._supervise(ready), name=f"supervisor {self._plugin}")

    async def stop(self) -> None:
        """Run the stop hook and end the runtime; bounded, whatever the plugin does."""
        if self._task is None:
            return
        if self.status.state is not SupervisedState.STOPPING:
            self._go(SupervisedState.STOPPING, "asked to")
        self._runs.clear()
        self._task.cancel()
        await asyncio.wait((self._task,))
        if self._runtime is not None:
            await self._runtime.stop(self._limits.stop_hook, self._limits.term)
            self._runtime = None
        self._task = None
        self._go(SupervisedState.STOPPED, "asked to")

    async def _supervise(self, ready: Callable[[], Awaitable[None]] | None) -> None:
        """Keep it running; where not even that can be gone on with, it has failed and says so."""
        try:
            await self._keep_running(ready)
        except Exception as error:  # noqa: BLE001 - logged; nobody else would ever move the plugin on from here
            _log.exception("plugin_not_supervised", plugin=self._plugin)
            self._runs.clear()
            if self._runtime is not None:
                self._runtime.kill("stopped: the host could not look after it")
            # Not by `_go`: it may be a transition that is not allowed, or who hears of one, that brought us here.
            evidence = f"{type(error).__name__}: {error}"
            now = self._clock.now().timestamp()
            self.status = SupervisedStatus(
                SupervisedState.FAILED, now, "host error", evidence, "look at the host's log, then restart it"
            )
            self._on_change()

    async def _keep_running(self, ready: Callable[[], Awaitable[None]] | None) -> None:
        if ready is not None:
            await ready()
        while True:
            try:
                started = await self._start_once()
                if started is None:
                    return
                reason = started if isinstance(started, ExitReason) else await self._watch(started)
            except Exception as error:  # noqa: BLE001 - logged; nobody else would ever move the plugin on from here
                _log.exception("plugin_not_supervised", plugin=self._plugin)
                reason = ExitReason("host error", f"the host could not look after it: {type(error).__name__}: {error}")
                if self._runtime is not None:
                    self._runtime.kill("stopped: the host could not look after it")
            self._runs.clear()
            self._runtime = None
            self.last_error, self.last_stack = reason.evidence, reason.stack
            if not await self._back_off(reason):
                return

    async def _start_once(self) -> Runtime | ExitReason | None:
        """A running runtime; or why there is none, where another try may do; or None, where it may not."""
        runtime = self._runtime = self._make_runtime()
        try:
            async with asyncio.timeout(self._limits.start):
                await runtime.start()
        except TimeoutError:
            runtime.kill("start limit: it was not ready in time")
            return ExitReason("start limit", f"it was not ready within {self._limits.start:g} s")
        except StartFailedError as error:
            self.last_error, self.last_stack = error.message, error.traceback
            _log.warning("plugin_start_failed", plugin=self._plugin, reason=error.message, retryable=error.retryable)
            if error.retryable:
                return ExitReason("start failed", error.message)
            self._runtime = None
            self._go(SupervisedState.FAILED, "start failed", error.message, "mend it, then restart or upgrade")
            return None
        except BaseException:  # a cancellation: no runtime is left behind; raised again
            runtime.kill("stopped: its start was cancelled")
            raise
        self._runs.set()  # first: who hears that it runs may call it at once
        self._go(SupervisedState.RUNNING, "started")
        seen = runtime.snapshot()
        _log.info("plugin_running", plugin=self._plugin, pid=seen.pid)
        if seen.weakened:
            _log.warning("sandbox_weakened", plugin=self._plugin, parts=list(seen.weakened))
        return runtime

    async def _watch(self, runtime: Runtime) -> ExitReason:
        """Look after a running runtime until it has ended; why it did."""
        limits = self._limits
        began = self._clock.monotonic()
        while True:
            # To the moment where it matters: a loop that blocks is to be found within the limit, not a look later.
            timeout = min(limits.heartbeat, max(0.01, limits.silence - runtime.snapshot().silent_for))
            done, _ = await asyncio.wait((runtime.exited,), timeout=timeout)
            if done:
                return runtime.exited.result()
            await runtime.look_after()
            if self._failures and self._clock.monotonic() - began >= limits.healthy_after:
                self._failures = 0
            seen = runtime.snapshot()
            if seen.silent_for >= limits.silence:
                why = f"blocked loop: the worker's loop was silent for over {limits.silence:g} s"
                runtime.kill(why, ask_where=True)
                return await asyncio.shield(runtime.exited)
            if seen.overdue_for > limits.overdue:
                why = f"deadline: a hook went on for over {limits.overdue:g} s after its time was up"
                runtime.kill(why, ask_where=True)
                return await asyncio.shield(runtime.exited)
            if seen.rss_bytes is not None and seen.rss_bytes > self._memory:
                runtime.kill(f"out of memory: {seen.rss_bytes} bytes are more than {self._memory}")

    async def _back_off(self, reason: ExitReason) -> bool:
        """Wait before the next start; False where there have been too many."""
        now = self._clock.monotonic()
        limits = self._limits
        self._crashes.append(now)
        self._failures += 1
        _log.warning("plugin_runtime_ended", plugin=self._plugin, cause=reason.cause, evidence=reason.evidence)
        if len(self._crashes) == limits.restarts and now - self._crashes[0] <= limits.restart_window:
            self._go(
                SupervisedState.FAILED,
                f"ended {limits.restarts} times within {limits.restart_window:g} s",
                reason.evidence,
                "look at its log, then restart it",
            )
            return False
        wait = limits.restart_delay(self._failures, self._rng)
        at = self._clock.now().timestamp() + wait
        self._go(SupervisedState.BACKING_OFF, reason.cause, reason.evidence, "restart", at)
        await asyncio.sleep(wait)
        self.restarts += 1
        self._go(SupervisedState.STARTING, "restart")
        return True

    def _go(
        self,
        state: SupervisedState,
        cause: str,
        evidence: str = "",
        next_action: str = "",
        next_action_at: float | None = None,
    ) -> None:
        old = self.status.state
        if state not in _TRANSITIONS[old]:
            raise RuntimeError(f"a supervised runtime does not go from {old.value} to {state.value}")
        self.status = SupervisedStatus(
            state, self._clock.now().timestamp(), cause, evidence, next_action, next_action_at
        )
        self._on_change()
