"""A real log, router, settlements and guard around consumers, with a plugin that is a function of the test."""

from __future__ import annotations

import asyncio
import random
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
from host.storage.database import Database
from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.events import Event, new_event
from plugin_sdk.resilience import Breaker, BreakerPolicy, Bulkhead
from plugin_sdk.testing import FakeClock


class ScriptedPlugin:
    """A plugin's runtime: every call is kept, and `answer` says what becomes of it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.answer: Callable[[Any], Awaitable[None]] = self._fine
        self.begins = True
        self._running = asyncio.Event()
        self._running.set()

    @staticmethod
    async def _fine(_call: Any) -> None:
        return None

    @property
    def running(self) -> bool:
        return self._running.is_set()

    def stop(self) -> None:
        self._running.clear()

    def start(self) -> None:
        self._running.set()

    async def wait_running(self) -> None:
        await self._running.wait()

    def begin(self, call: Any, ended: Callable[[BaseException | None], None]) -> Callable[[], Any] | None:
        """As a worker's runtime; None where `begins` is off, as an inline one."""
        if not self.begins:
            return None
        task = asyncio.create_task(self.call(call))
        task.add_done_callback(lambda done: None if done.cancelled() else ended(done.exception()))
        return task.cancel

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
        self.plugin = ScriptedPlugin()
        self.guard = Guard(
            "p",
            breaker=Breaker(
                BreakerPolicy(consecutive_failures=10_000, failure_rate=1, minimum_calls=10_000), clock=clock
            ),
            bulkhead=Bulkhead(places),
            clock=clock,
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
            now = (len(self.plugin.calls), self.guard.bulkhead.in_use, *(one.lag for one in self.consumers))
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
