"""Outcomes on their way to disk: a cursor never stands above an outcome that is not written with it or before it."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from delivery_rig import event

from host.routing import settlements as settlements_module
from host.routing.event_log import Outcome, Settlement, StoredEvent
from host.routing.settlements import MAX_BYTES_EACH, MAX_WAITING, MAX_WAITING_EACH, Settlements
from host.storage.errors import RowRefusedError, StorageFailedError


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

    def __init__(self, key="p/s"):
        self.key = key
        self.settled = 0
        self.aside = []
        self.failures = []

    def checkpoint(self):
        return self.settled, ()

    def written(self, settlements):
        pass

    def set_aside(self, settlement):
        self.aside.append(settlement)

    def fail(self, error):
        self.failures.append(error)

    def settle(self, settlements, count):
        for _ in range(count):
            self.settled += 1
            stored = StoredEvent(self.settled, event(self.settled), b"{}", 0.0)
            settlements.add(self, [Settlement(self.key, "p", stored, 1, Outcome.RETRIED, 0.0, 0.0, retry_at=1.0)])


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


class PickyDisk:
    """A log that refuses a batch for the sake of some sequences; `hopeless` ones even as dead letters."""

    def __init__(self, refused=(), hopeless=()):
        self.refused, self.hopeless = set(refused), set(hopeless)
        self.written, self.cursors = [], {}

    async def settle(self, outcomes, cursors, ahead):
        await asyncio.sleep(0)
        for one in outcomes:
            which = (one.subscription, one.stored.sequence)
            if which in self.hopeless or (which in self.refused and one.outcome is not Outcome.DEAD_LETTERED):
                raise RowRefusedError(f"not {which}")
        self.written += [(one.subscription, one.stored.sequence, one.outcome) for one in outcomes]
        self.cursors.update(cursors)

    def of(self, key):
        return sorted({number for subscription, number, _ in self.written if subscription == key})


async def test_an_outcome_that_cannot_be_written_is_a_dead_letter_and_holds_up_nobody():
    disk, one, other = PickyDisk(refused={("p/s", 2)}), Consumer(), Consumer("q/s")
    async with settling(disk) as settlements:
        for consumer in (one, other):
            settlements.attach(consumer, 0)
            consumer.settle(settlements, 3)
        await settlements.flushed()
        assert settlements.has_room("p")
    assert (disk.of("p/s"), disk.of("q/s")) == ([1, 2, 3], [1, 2, 3])
    assert ("p/s", 2, Outcome.DEAD_LETTERED) in disk.written
    assert disk.cursors == {"p/s": 3, "q/s": 3}
    assert [settlement.stored.sequence for settlement in one.aside] == [2]
    assert one.failures == other.failures == []


async def test_a_consumer_of_which_nothing_can_be_written_is_let_go_of_with_its_cursor_where_it_was():
    disk, one, other = PickyDisk(hopeless={("p/s", 2)}), Consumer(), Consumer("q/s")
    async with settling(disk) as settlements:
        settlements.attach(one, 0)
        settlements.attach(other, 0)
        one.settle(settlements, 3)
        other.settle(settlements, 3)
        await asyncio.sleep(0)
        one.settle(settlements, 2)  # while the batch is being written
        other.settle(settlements, 2)
        await settlements.flushed()
        await settlements.detach(one)
    assert "p/s" not in disk.cursors
    assert disk.cursors["q/s"] == 5
    assert disk.of("q/s") == [1, 2, 3, 4, 5]
    assert len(one.failures) == 1
    assert other.failures == []


async def test_a_consumer_whose_cursor_cannot_be_told_is_its_own_trouble():
    class Lost(Consumer):
        def checkpoint(self):
            raise LookupError("lost count")

    disk, lost, other = PickyDisk(), Lost("p/lost"), Consumer("q/s")
    async with settling(disk) as settlements:
        for consumer in (lost, other):
            settlements.attach(consumer, 0)
            consumer.settle(settlements, 2)
        await settlements.flushed()
    assert disk.of("q/s") == [1, 2]
    assert disk.cursors == {"q/s": 2}
    assert len(lost.failures) == 1


class Pumped:
    """Waits for room."""

    def __init__(self):
        self.told = asyncio.Event()

    def pump(self):
        self.told.set()


@pytest.mark.parametrize(
    ("shares", "others_have_room"),
    [([("p", MAX_BYTES_EACH)], True), ([(name, MAX_BYTES_EACH - 1) for name in "pqrst"], False)],
    ids=["of one plugin", "of all"],
)
async def test_what_waits_for_the_disk_is_bounded_in_bytes_for_each_plugin_and_in_all(shares, others_have_room):
    disk, waits = Disk(), Pumped()
    disk.full = True
    async with settling(disk) as settlements:
        for plugin, size in shares:
            consumer = Consumer(f"{plugin}/s")
            settlements.attach(consumer, 0)
            assert settlements.has_room(plugin)
            consumer.settled += 1
            heavy = StoredEvent(1, event(1), b"x" * size, 0.0)
            settlements.add(consumer, [Settlement(f"{plugin}/s", plugin, heavy, 1, Outcome.DELIVERED, 0.0, 0.0)])
        assert not settlements.has_room("p")
        assert settlements.has_room("another") is others_have_room
        settlements.when_room(waits)
        disk.full = False
        await waits.told.wait()
        assert settlements.has_room("p")


async def test_one_plugin_that_settles_more_than_is_written_leaves_room_for_the_others():
    disk, busy = Disk(), Consumer()
    disk.full = True
    async with settling(disk) as settlements:
        settlements.attach(busy, 0)
        busy.settle(settlements, MAX_WAITING_EACH)
        assert (settlements.has_room("p"), settlements.has_room("q")) == (False, True)
        disk.full = False
        await settlements.flushed()
        assert settlements.has_room("p")


async def test_a_second_run_writes_what_the_first_one_was_writing():
    """Given a run that ended in the middle of a batch, when there is another, then nothing of the batch is missing."""
    disk, consumer = Disk(), Consumer()
    disk.full = True
    settlements = Settlements(disk)
    settlements.attach(consumer, 0)
    first = asyncio.create_task(settlements.run())
    consumer.settle(settlements, 3)
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait((first,))
    consumer.settle(settlements, 2)
    disk.full = False
    second = asyncio.create_task(settlements.run())
    await settlements.flushed()
    second.cancel()
    await asyncio.wait((second,))
    assert disk.written == [1, 2, 3, 4, 5]
    assert settlements.has_room("p")
