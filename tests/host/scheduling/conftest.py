"""A scheduler over a real database and log, with a clock that the test turns."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from host.routing.progress import Progress
from host.routing.sqlite_log import SQLiteLog
from host.scheduling.scheduler import Scheduler
from host.storage.database import Database
from plugin_sdk.schedule import Schedule, instant_of
from plugin_sdk.testing import FakeClock

PLUGIN = "clock"


@dataclass
class Cancels:
    """Notes what is cancelled, and answers as it is told."""

    asked: list = field(default_factory=list)
    answer: bool = True

    def cancel(self, plugin, sequence):
        self.asked.append((plugin, sequence))
        return self.answer


class World:
    """What a test of schedules looks at and turns."""

    def __init__(self, path, now):
        self._path = path
        self.clock = FakeClock(now)
        self.cancels = Cancels()
        self.operations = []
        self.events = []
        self.running = []

    def run(self):
        """Have the scheduler look by itself."""
        self.running.append(asyncio.create_task(self.scheduler.run()))

    async def open(self):
        self.database = await Database.open(self._path, clock=self.clock)
        self.log = await SQLiteLog.open(self.database, self.clock)
        self._operate, self.log.operate = self.log.operate, self.operate
        self.log.listen(lambda _after, stored: self.events.extend(one.event for one in stored))
        self.scheduler = Scheduler(self.database, self.log, self.clock, cancels=self.cancels)
        return self

    async def operate(self, name, arguments, events=()):
        """What the log is asked to do in one transaction each."""
        self.operations.append(name)
        return await self._operate(name, arguments, events)

    async def restart(self):
        """Stop the host and start it anew on the same database."""
        await self.close()
        await self.open()

    async def close(self):
        for task in self.running:
            task.cancel()
        if self.running:
            await asyncio.wait(self.running)
        self.scheduler.close()
        await self.database.close()

    async def adopt(self, *schedules, plugin=PLUGIN):
        await self.scheduler.adopt(plugin, schedules)

    async def look(self):
        return await self.scheduler.look()

    async def pass_(self, seconds, *, every=None):
        """Let time pass, with a look at the end, or `every` so many seconds."""
        left = seconds
        while left > 0:
            turn = min(left, every or seconds)
            self.clock.advance(turn)
            left -= turn
            await self.look()

    def due(self):
        """The instants of all firings that were appended, as HH:MM:SS of UTC."""
        return [event.data["due"][11:19] for event in self.events]

    async def runs(self, schedule=f"{PLUGIN}/tick"):
        """The history, the oldest first."""
        found, _ = await self.scheduler.runs(schedule, 0, 10_000)
        return found[::-1]

    async def outcomes(self, schedule=f"{PLUGIN}/tick"):
        """The history in short: outcome, reason and count."""
        return [(one.outcome, str(one.reason), one.count) for one in await self.runs(schedule)]

    async def record(self, schedule=f"{PLUGIN}/tick"):
        found, _ = await self.scheduler.page(0, 100_000)
        return next(one for one in found if one.id == schedule)

    async def follow(self, plugin=PLUGIN):
        """Have the plugin's subscription to its schedules stand at the end of the log."""
        key = f"{plugin}/@schedules"

        def write(connection):
            connection.execute("INSERT INTO cursors (subscription, position) VALUES (?, ?)", (key, self.log.head()))

        await self.database.write(write)

    async def settle(self, *events, plugin=PLUGIN):
        """Give deliveries their outcome as a consumer does: the first ones by default, out of order if asked."""
        key = f"{plugin}/@schedules"
        rows = await self.database.read("SELECT position FROM cursors WHERE subscription = ?", (key,))
        ahead = await self.log.ahead(key)
        progress = Progress(rows[0][0], ahead)
        for stored in await self.log.read(rows[0][0], 10_000):
            progress.take(stored.sequence)
        for event in events or self.events:
            (stored,) = await self.log.find(event.id)
            progress.settle(stored.sequence)
        position, fresh = progress.checkpoint()
        await self.log.settle([], {key: position}, {key: fresh})

    async def set_aside(self, event, plugin=PLUGIN):
        """Leave a delivery to be tried again."""
        (stored,) = await self.log.find(event.id)

        def write(connection):
            connection.execute(
                "INSERT INTO retries (subscription, sequence, attempt, due_at, error) VALUES (?, ?, 1, 0, '')",
                (f"{plugin}/@schedules", stored.sequence),
            )

        await self.database.write(write)


@pytest.fixture
async def world(tmp_path):
    opened = await World(tmp_path / "busbar.db", datetime(2026, 1, 5, 12, tzinfo=UTC)).open()
    yield opened
    await opened.close()


@pytest.fixture
def every():
    def make(seconds=60.0, name="tick", **policies):
        return Schedule(name=name, every=seconds, **policies)

    return make


@pytest.fixture
def cron():
    def make(rule="* * * * *", name="tick", **policies):
        return Schedule(name=name, cron=rule, **policies)

    return make


@pytest.fixture
def instant():
    return instant_of
