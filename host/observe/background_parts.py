"""The host's background parts: loops of its own that run until it stops, and what follows when one dies.

A part that dies is started again, after a wait that doubles. Where it dies again and again, or cannot be started
again, the host is not fit for work any more, and says so to whoever asks: in the log, in its health, in the alerts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily

from plugin_sdk.clock import Clock

FIRST_WAIT: Final = 1.0
"""Seconds before the first restart of a part; they double with each death."""
LONGEST_WAIT: Final = 60.0
WELL_AFTER: Final = 60.0
"""A part that has run for so long is well again, and its next death is the first."""
UNFIT_AFTER: Final = 5
"""Deaths in a row after which the host is not fit for work: some half a minute of trying."""

_log = structlog.get_logger(__name__)


class PartEndedError(RuntimeError):
    """A part that runs for ever came to an end."""


@dataclass(frozen=True, slots=True)
class PartTrouble:
    """A part that died. `unfit` says that the host must not take work; `since` is in seconds since the epoch."""

    name: str
    reason: str
    deaths: int
    since: float
    unfit: bool
    next_action: str


class BackgroundParts:
    """Runs the background parts.

    Args:
        clock: For what is said of deaths.
        sleep: Waits between a death and the next start.
    """

    def __init__(self, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._trouble: dict[str, PartTrouble] = {}
        self._deaths: dict[str, int] = {}

    def start(
        self, name: str, run: Callable[[], Awaitable[None]], *, ends: bool = False, again: bool = True
    ) -> asyncio.Task[None]:
        """Run a part until its task is cancelled.

        Args:
            name: What people call it.
            run: Makes one life of the part; called again for each restart.
            ends: It has an end of its own, which is no death.
            again: It can be started again. Where not, its death leaves the host unfit.
        """
        self._deaths[name] = 0
        return asyncio.create_task(self._keep(name, run, ends=ends, again=again), name=name)

    def trouble(self) -> tuple[PartTrouble, ...]:
        """The parts that died and are not well again, by name."""
        return tuple(self._trouble[name] for name in sorted(self._trouble))

    def metrics(self) -> tuple[Metric, ...]:
        """How often each part died."""
        deaths = CounterMetricFamily("busbar_part_deaths", "Deaths of the host's background parts.", labels=("part",))
        for name, count in sorted(self._deaths.items()):
            deaths.add_metric((name,), count)
        return (deaths,)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]], *, ends: bool, again: bool) -> None:
        deaths = 0
        while True:
            began = self._clock.monotonic()
            well = asyncio.get_running_loop().call_later(WELL_AFTER, self._trouble.pop, name, None)
            try:
                await run()
                if ends:
                    self._trouble.pop(name, None)
                    return
                raise PartEndedError("it came to an end, and should run for ever")
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # the host stops
                died: BaseException = error  # something within it was cancelled, and nobody asked the part to end
            except Exception as error:  # noqa: BLE001 - logged; it is what a part's death means that is decided here
                died = error
            finally:
                well.cancel()
            deaths = 1 if self._clock.monotonic() - began >= WELL_AFTER else deaths + 1
            wait = min(FIRST_WAIT * 2.0 ** (deaths - 1), LONGEST_WAIT)
            self._note(name, died, deaths, wait if again else None)
            if not again:
                return
            await self._sleep(wait)

    def _note(self, name: str, died: BaseException, deaths: int, wait: float | None) -> None:
        reason = f"{type(died).__name__}: {died}" if str(died) else type(died).__name__
        unfit = wait is None or deaths >= UNFIT_AFTER
        next_action = "restart the daemon"
        if wait is not None:
            next_action = f"it is started again after {wait:g} s"
            if unfit:
                next_action += "; look at the log for why it dies, and restart the daemon"
        now = self._clock.now().timestamp()
        before = self._trouble.get(name)
        since = now if before is None else before.since
        self._deaths[name] += 1
        self._trouble[name] = PartTrouble(name, reason, deaths, since, unfit, next_action)
        _log.error("part_ended", part=name, deaths=deaths, unfit=unfit, next_action=next_action, exc_info=died)
