"""Outcomes on their way to disk: a cursor never stands above an outcome that is not written with it or before it."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from delivery_rig import event

from host.routing import settlements as settlements_module
from host.routing.event_log import Outcome, Settlement, StoredEvent
from host.routing.settlements import MAX_WAITING, Settlements
from host.storage.errors import StorageFailedError


class Disk:
    """A log that keeps what is written, or refuses."""

    def __init__(self):
        self.full = False
        self.written = []
        self.cursor = 0

    async def settle(self, outcomes, cursors, ahead):
        await asyncio.sleep(0)
        if self.full:
            raise StorageFailedError("the disk is full")
        self.written += [one.stored.sequence for one in outcomes]
        self.cursor = max(self.cursor, *cursors.values())
        assert self.cursor <= len(self.written), "a crash here would lose an outcome"


class Consumer:
    """One whose deliveries all ended; its cursor is past them."""

    key = "p/s"

    def __init__(self):
        self.settled = 0

    def checkpoint(self):
        return self.settled, ()

    def written(self, settlements):
        pass

    def settle(self, settlements, count):
        for _ in range(count):
            self.settled += 1
            stored = StoredEvent(self.settled, event(self.settled), b"{}", 0.0)
            settlements.add(self, Settlement(self.key, "p", stored, 1, Outcome.RETRIED, 0.0, 0.0, retry_at=1.0))


@asynccontextmanager
async def settling(disk):
    settlements = Settlements(disk)
    writing = asyncio.create_task(settlements.run())
    yield settlements
    writing.cancel()
    await asyncio.wait((writing,))


@pytest.mark.parametrize("count", [1, 1000, 3000, MAX_WAITING])
async def test_a_cursor_moves_only_with_every_outcome_below_it(count):
    disk, consumer = Disk(), Consumer()
    async with settling(disk) as settlements:
        settlements.attach(consumer, 0)
        consumer.settle(settlements, count)
        await asyncio.sleep(0)
        consumer.settle(settlements, 7)  # while the others are being written
        await settlements.flushed()
    assert disk.written == list(range(1, count + 8))
    assert disk.cursor == count + 7


async def test_a_consumer_that_stops_while_the_disk_is_full_does_not_leave_its_cursor_behind_its_outcomes(monkeypatch):
    monkeypatch.setattr(settlements_module, "DETACH_SECONDS", 0.05)
    disk, consumer = Disk(), Consumer()
    disk.full = True
    async with settling(disk) as settlements:
        settlements.attach(consumer, 0)
        consumer.settle(settlements, 3)
        await settlements.detach(consumer)
    assert (disk.written, disk.cursor) == ([], 0)
