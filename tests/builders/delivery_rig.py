"""A real log, router, settlements and guard around consumers, with a plugin that is a function of the test."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from host.routing.consumer import Consumer
from host.routing.event_log import DeliveryQuery, LetterQuery
from host.routing.filters import Filter
from host.routing.guard import Guard
from host.routing.router import Router
from host.routing.settlements import Settlements
from host.routing.sqlite_log import SQLiteLog
from host.routing.subscriptions import BoundSubscription
from host.runtime.errors import HookFailedError, WorkerDiedError
from host.storage.database import Database
from plugin_sdk.calls import Flight, delivery_call
from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.errors import Verdict
from plugin_sdk.events import Event, new_event
from plugin_sdk.resilience import Breaker, BreakerPolicy
from plugin_sdk.testing import FakeClock


class ScriptedPlugin:
    """A plugin and its runtime in one: every call is kept, and `answer` says what becomes of it.

    As a worker it begins what it is handed in order, `places` at a time, and nothing more after a failure until it is
    told to; with `ahead` off, as an inline plugin, it begins all at once.
    """

    def __init__(self, places: int) -> None:
        self.calls: list[Any] = []
        self.answer: Callable[[Any], Awaitable[None]] = self._fine
        self.ahead = True
        self.on_start: list[Callable[[], None]] = []
        self._loop = asyncio.get_running_loop()
        self._places = places
        self._running = True
        self._waiting: deque[tuple[Flight, Any]] = deque()
        self._tasks: dict[Any, asyncio.Task[None]] = {}
        self._held = False
        self._hands: Any = None

    @staticmethod
    async def _fine(_call: Any) -> None:
        return None

    @property
    def running(self) -> bool:
        return self._running

    def stop(self) -> None:
        self._running = False

    def start(self) -> None:
        self._running = True
        for started in self.on_start:
            started()

    @property
    def runtime(self) -> ScriptedPlugin | None:
        return self if self._running else None

    def fly(self, flight: Flight, handed: Any, hands: Any) -> None:
        self._hands = hands
        self._waiting.extend((flight, one) for one in handed)
        self._loop.call_soon(self._begin)

    def cancel(self, one: Any) -> None:
        task = self._tasks.pop(one, None)
        self._waiting = deque(waiting for waiting in self._waiting if waiting[1] is not one)
        if task is not None:
            task.cancel()
        self._loop.call_soon(self._begin)

    def recall(self, handed: Any) -> None:
        back = [one for _, one in self._waiting if one in handed]
        self._waiting = deque(waiting for waiting in self._waiting if waiting[1] not in handed)
        self._loop.call_soon(self._hands.recalled, back)
        self.go_on()

    def go_on(self) -> None:
        self._held = False
        self._loop.call_soon(self._begin)

    def die(self, why: str) -> None:
        """As a worker that ends: nothing it has in its hands will be answered."""
        self._running = False
        handed = [*self._tasks, *(one for _, one in self._waiting)]
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._waiting.clear()
        self._hands.landed([(one, WorkerDiedError(why), 0.0) for one in handed])

    def _begin(self) -> None:
        while self._waiting and not self._held and (len(self._tasks) < self._places or not self.ahead):
            flight, one = self._waiting.popleft()
            task = self._tasks[one] = self._loop.create_task(self._deliver(flight, one))
            task.add_done_callback(lambda _: self._begin())

    async def _deliver(self, flight: Flight, one: Any) -> None:
        failure: Exception | None = None
        try:
            await self.call(delivery_call(flight, one.stored.sequence, one.attempt, one.stored.event))
        except Exception as error:
            failure = error
            self._held = self.ahead and not isinstance(error, Verdict)
        except asyncio.CancelledError:
            if one not in self._tasks:
                return
            failure = HookFailedError("CancelledError", "the hook cancelled its own task")
        if self._tasks.pop(one, None) is not None:
            self._hands.landed([(one, failure, 0.0)])

    async def call(self, call: Any) -> None:
        self.calls.append(call)
        await self.answer(call)

    @property
    def ids(self) -> list[str]:
        """The ids of the events it was called with, in order."""
        return [call.event.id for call in self.calls]


class Rig:
    """Everything on the path of an event but the daemon around it."""

    def __init__(self, database: Database, log: SQLiteLog, clock: FakeClock, *, places: int = 8) -> None:
        self.database = database
        self.log = log
        self.clock = clock
        self.router = Router(log)
        self.settlements = Settlements(log)
        self.plugin = ScriptedPlugin(places)
        self.guard = Guard(
            "p",
            breaker=Breaker(
                BreakerPolicy(consecutive_failures=10_000, failure_rate=1, minimum_calls=10_000), clock=clock
            ),
            places=places,
        )
        self.consumers: list[Consumer] = []

    async def consumer(self, name: str = "s", *, types: tuple[str, ...] = ("*",), **options: Any) -> Consumer:
        """A started consumer; options are those of the policy, or of `Consumer`."""
        own = {key: options.pop(key) for key in tuple(options) if key in DeliveryPolicy.__struct_fields__}
        policy = DeliveryPolicy(**{"jitter": 0.0, **own})
        bound = BoundSubscription("p", name, Filter(types), policy, policy.timeout or 10.0)
        return await self.consume(bound, **options)

    async def consume(self, subscription: BoundSubscription, **options: Any) -> Consumer:
        """A started consumer of a subscription that is bound already."""
        found = Consumer(
            subscription,
            log=self.log,
            router=self.router,
            settlements=self.settlements,
            guard=self.guard,
            target=self.plugin,
            clock=self.clock,
            rng=random.Random(1),
            **options,
        )
        await found.start()
        self.consumers.append(found)
        self.plugin.on_start.append(found.pump)
        return found

    async def publish(self, *events: Event) -> None:
        await asyncio.gather(*(self.log.append(one, one.to_json()) for one in events))

    async def advance(self, seconds: float) -> None:
        """Let time pass, and have the consumers look at what is due."""
        await self.settlements.flushed()
        self.clock.advance(seconds)
        for consumer in self.consumers:
            consumer.retries_added(0)
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until nothing moves: all that can be delivered now is, and its outcomes are durable."""
        before: tuple[Any, ...] = ()
        same = 0
        while same < 3:
            await self.settlements.flushed()
            await asyncio.sleep(0.005)
            if any(one.lag and not one.in_flight for one in self.consumers) and self.plugin.running:
                same = 0  # it has not looked yet
                continue
            now = (len(self.plugin.calls), self.guard.in_flight, *(one.lag for one in self.consumers))
            same = same + 1 if now == before else 0
            before = now

    async def letters(self) -> list[Any]:
        return (await self.log.dead_letters(LetterQuery(), 0, 200))[0]

    async def attempts(self) -> list[Any]:
        return list(reversed((await self.log.deliveries("p", DeliveryQuery(), 0, 200))[0]))


def event(number: int | str, type_: str = "a.b", **more: Any) -> Event:
    return new_event(type_, source="/tests", id=str(number), **more)


def keyed(number: int | str, key: str) -> Event:
    return event(number, extensions={"partitionkey": key})


@asynccontextmanager
async def rig(folder: Path, *, places: int = 8, clock: FakeClock | None = None):
    """A rig on a database in `folder`; leaving it is an orderly stop."""
    clock = clock or FakeClock()
    database = await Database.open(folder / "busbar.db", clock=clock)
    try:
        found = Rig(database, await SQLiteLog.open(database, clock), clock, places=places)
        writing = asyncio.create_task(found.settlements.run())
        try:
            yield found
        finally:
            for consumer in found.consumers:
                await consumer.stop(1)
            await found.settlements.flushed()
            writing.cancel()
            await asyncio.wait((writing,))
    finally:
        await database.close()
