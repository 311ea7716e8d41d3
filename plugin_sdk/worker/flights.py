"""Deliveries in a worker: begun in the order in which they came, so many at once, and answered in groups.

Once one has raised, no other is begun until the host says so: it may be that its breaker has opened.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from plugin_sdk.calls import EventCall, FiringCall, Flight, delivery_call
from plugin_sdk.worker.eager_task import eager_task
from plugin_sdk.worker.log_lines import delivery_id
from plugin_sdk.worker.outcomes import raised
from plugin_sdk.worker.wire import MAX_FLIGHT, MAX_WAIT, VERDICTS, Deliver, Done, Recalled

TURN_SECONDS: Final = 0.002
"""How long hooks that never wait are begun one after the other before the loop turns: calls and heartbeats wait."""


class Flights:
    """Makes deliveries.

    Args:
        run: Enters the hook of a call.
        send: Sends a message to the host.
        limit: Deliveries at once.
    """

    def __init__(
        self, run: Callable[[EventCall | FiringCall], Awaitable[Any]], send: Callable[[Any], None], limit: int
    ) -> None:
        self._run = run
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._free = limit
        self._queue: deque[tuple[int, Flight, int, int, bytes]] = deque()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._begun: set[int] = set()
        self._done: list[int] = []
        self._seconds: list[float] = []
        self._held = False
        self._pulling = False
        self._flushing = False

    def take(self, message: Deliver) -> None:
        """Begin deliveries, or have them wait for others to end."""
        flight = message.flight
        for number, (sequence, attempt, body) in enumerate(message.deliveries, message.first):
            self._queue.append((number, flight, sequence, attempt, body))
        self._pull()

    def cancel(self, number: int) -> None:
        """Cancel a delivery, which holds no place from now on; one that has not begun is given back."""
        if number not in self._begun:
            self._drop({number})
            return
        self._begun.discard(number)
        self._free += 1
        self._tasks[number].cancel()
        self._pull_soon()

    def recall(self, numbers: list[int]) -> None:
        """Give back what has not begun."""
        self._drop(set(numbers))
        self.go_on()

    def go_on(self) -> None:
        """Begin deliveries again."""
        self._held = False
        self._pull_soon()

    # -- inside

    def _drop(self, numbers: set[int]) -> None:
        """Tell the host which of these have not begun, and forget them."""
        dropped = [one[0] for one in self._queue if one[0] in numbers]
        if dropped:
            self._queue = deque(one for one in self._queue if one[0] not in numbers)
            for first in range(0, len(dropped), MAX_FLIGHT):
                self._send(Recalled(dropped[first : first + MAX_FLIGHT]))

    def _pull_soon(self) -> None:
        # In a turn of its own: a delivery's task may ask for it, and what else came with the message goes first.
        if self._queue and not self._pulling:
            self._pulling = True
            self._loop.call_soon(self._pulled)

    def _pulled(self) -> None:
        self._pulling = False
        self._pull()

    def _pull(self) -> None:
        """Begin what waits, as far as there are places."""
        queue = self._queue
        until = time.perf_counter() + TURN_SECONDS
        while queue and self._free > 0 and not self._held:
            self._begin(*queue.popleft())
            if time.perf_counter() > until:
                self._pull_soon()
                break
        self._flush()

    def _begin(self, number: int, flight: Flight, sequence: int, attempt: int, body: bytes) -> None:
        self._free -= 1
        self._begun.add(number)
        task = eager_task(self._deliver(number, flight, sequence, attempt, body), self._loop)
        if task is not None:
            self._tasks[number] = task

    async def _deliver(self, number: int, flight: Flight, sequence: int, attempt: int, body: bytes) -> None:
        began = time.perf_counter()
        try:
            delivery_id.set(f"{flight.home}/{sequence}")
            await self._run(delivery_call(flight, sequence, attempt, body))
        except BaseException as error:  # noqa: BLE001 - SystemExit in a hook is that hook's failure, too
            message = raised(number, error, min(time.perf_counter() - began, MAX_WAIT))
            # The host waits no more for one that it cancelled, and says nothing to what that raises.
            self._held = self._held or (number in self._begun and message.kind not in VERDICTS)
            self._ended(number)
            self._send(message)
        else:
            self._ended(number)
            self._done.append(number)
            self._seconds.append(min(time.perf_counter() - began, MAX_WAIT))
            if len(self._done) == MAX_FLIGHT:
                self._flush()
            elif not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)

    def _ended(self, number: int) -> None:
        self._tasks.pop(number, None)
        if number in self._begun:  # it may have been cancelled, and gave its place back then
            self._begun.discard(number)
            self._free += 1
            self._pull_soon()

    def _flush(self) -> None:
        """Tell of the deliveries that ended well."""
        self._flushing = False
        if self._done:
            done, self._done = self._done, []
            seconds, self._seconds = self._seconds, []
            self._send(Done(done, seconds))
