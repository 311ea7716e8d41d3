"""Whoever writes without end waits for itself; others find a place in the next group."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.storage.errors import StorageBusyError, StorageFailedError
from host.storage.fair_groups import GROUP_BYTES, GROUP_ITEMS, MAX_BYTES, MAX_ITEMS, FairGroups


class Disk:
    """Takes items, and has written a group when the test says so."""

    def __init__(self):
        self.groups = [[]]
        self.under_way = []
        self.fair = FairGroups(self.submit)

    def submit(self, item, _weight):
        future = asyncio.get_running_loop().create_future()
        self.groups[-1].append(item)
        self.under_way.append(future)
        return future

    async def write(self):
        """Let the group that is under way be written, and the next one begin; what was in it."""
        await asyncio.sleep(0)
        written, self.under_way = self.under_way, []
        self.groups.append([])
        for future in written:
            future.set_result("written")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.groups[-2]

    async def drain(self):
        while self.under_way:
            await self.write()


@pytest.fixture
async def disk():
    return Disk()


async def test_what_is_put_in_one_turn_of_the_loop_is_one_group_and_the_rest_collects(disk):
    disk.fair.put("a", 1)
    disk.fair.put("b", 2)
    await asyncio.sleep(0)
    disk.fair.put("a", 3)
    disk.fair.put("b", 4)
    assert await disk.write() == [1, 2]
    assert await disk.write() == [3, 4]


async def test_one_item_of_a_neighbour_is_in_the_next_group_however_much_another_has_waiting(disk):
    for number in range(MAX_ITEMS):
        disk.fair.put("greedy", ("greedy", number))
    await asyncio.sleep(0)
    answer = disk.fair.put("neighbour", "mine")
    assert len(await disk.write()) == GROUP_ITEMS
    assert not answer.done()
    assert "mine" in await disk.write()
    assert answer.result() == "written"


async def test_turns_go_on_where_the_group_before_ended(disk):
    for owner in range(GROUP_ITEMS + 10):
        disk.fair.put(str(owner), (owner, 0))
        disk.fair.put(str(owner), (owner, 1))
    await asyncio.sleep(0)
    assert list(await disk.write()) == [(owner, 0) for owner in range(GROUP_ITEMS)]
    second = await disk.write()
    assert second[:10] == [(owner, 0) for owner in range(GROUP_ITEMS, GROUP_ITEMS + 10)]
    assert second[10] == (0, 1)


async def test_a_group_is_bounded_in_bytes_and_one_item_alone_may_have_more(disk):
    for number in range(3):
        disk.fair.put("a", number, weight=GROUP_BYTES)
    await asyncio.sleep(0)
    assert await disk.write() == [0]
    assert await disk.write() == [1]


@pytest.mark.parametrize(
    ("number", "weight"), [(MAX_ITEMS, 1), (4, MAX_BYTES // 4), (1, MAX_BYTES + 1)], ids=["items", "bytes", "one"]
)
async def test_an_owner_with_too_much_waiting_is_told_so_alone(disk, number, weight):
    for _ in range(number):
        disk.fair.put("greedy", 0, weight=weight)
    with pytest.raises(StorageBusyError, match="greedy"):
        disk.fair.put("greedy", 0, weight=1)
    disk.fair.put("neighbour", 0, weight=MAX_BYTES + 1)
    disk.fair.put("greedy", "the host's own", owed=True)
    await asyncio.sleep(0)
    await disk.drain()
    disk.fair.put("greedy", 0, weight=weight)


async def test_what_nobody_waits_for_any_more_is_not_written(disk):
    kept, given_up = disk.fair.put("a", "kept"), disk.fair.put("a", "given up")
    given_up.cancel()
    await asyncio.sleep(0)
    await disk.drain()
    assert kept.result() == "written"
    assert [item for group in disk.groups for item in group] == ["kept"]


async def test_a_failure_is_that_of_the_item_and_the_next_group_goes_on(disk):
    failing = disk.fair.put("a", 1)
    await asyncio.sleep(0)
    after = disk.fair.put("a", 2)
    disk.under_way.pop().set_exception(StorageFailedError("the disk is full"))
    with pytest.raises(StorageFailedError):
        await failing
    await disk.drain()
    assert after.result() == "written"


async def test_a_refusal_of_all_ends_nobodys_waiting_in_silence():
    def refuse(_item, _weight):
        raise StorageFailedError("closed")

    fair = FairGroups(refuse)
    answers = [fair.put("a", number) for number in range(MAX_ITEMS)]
    found = await asyncio.gather(*answers, return_exceptions=True)
    assert {type(one) for one in found} == {StorageFailedError}
    await fair.close()


async def test_closing_waits_for_what_waits_and_then_nothing_is_taken(disk):
    answer = disk.fair.put("a", 1)
    closing = asyncio.create_task(disk.fair.close())
    await asyncio.sleep(0)
    assert not closing.done()
    with pytest.raises(StorageFailedError):
        disk.fair.put("a", 2)
    await disk.drain()
    await closing
    assert answer.result() == "written"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, GROUP_BYTES // 4)), max_size=60))
async def test_everything_is_written_once_and_an_owners_in_its_order(items):
    """Given any items of any owners, then all are written, each owner's in the order in which they came."""
    disk = Disk()
    taken = []
    for number, (owner, weight) in enumerate(items):
        try:
            disk.fair.put(owner, (owner, number), weight=weight)
        except StorageBusyError:
            continue
        taken.append((owner, number))
    await asyncio.sleep(0)
    await disk.drain()
    written = [item for group in disk.groups for item in group]
    assert sorted(written) == sorted(taken)
    for owner in "abcde":
        assert [one for one in written if one[0] == owner] == [one for one in taken if one[0] == owner]
