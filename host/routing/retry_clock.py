"""Keeps retries in time when the clock on the wall is set, or the machine slept.

Due times are instants on the wall, so that they outlive a restart. A clock that is set back would have every waiting
delivery wait that much longer: then the due times are set back with it. One that is set forward has them due at once,
which is what they should be after a machine has slept.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from host.errors import BusbarError
from host.observe.clock_watch import ClockWatch
from host.routing.event_log import EventLog
from host.routing.router import Router
from plugin_sdk.clock import Clock

LOOK_SECONDS: Final = 10.0

_log = structlog.get_logger(__name__)


class RetryClock:
    """Looks at the two clocks; `run` is the task that does it now and then."""

    def __init__(self, log: EventLog, router: Router, clock: Clock) -> None:
        self._log = log
        self._router = router
        self._watch = ClockWatch(clock)
        self._owed = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Set due times right if the clock stepped; what the disk refuses is made up for at the next look."""
        step = self._watch.step()
        self._owed += min(step, 0.0)
        if self._owed:
            try:
                await self._log.shift_retries(self._owed)
            except BusbarError as error:
                _log.warning("retries_not_shifted", error=error.message, seconds=self._owed)
                return
            self._owed = 0.0
        if step:
            _log.warning("clock_stepped", seconds=round(step, 1))
            for consumer in self._router.consumers():
                consumer.retries_added(0)
