"""Pages of large events, retries and dead letters: no more of them is read at once than a few megabytes."""

import asyncio

import pytest
from delivery_rig import event, rig

from host.administration.dead_letters import MAX_PAGE_BYTES, DeadLetters
from host.observe.audit import Audit
from host.routing.event_log import EventQuery, LetterQuery, Outcome, Settlement
from host.routing.sqlite_log import MAX_PAGE_BYTES as MAX_QUERY_BYTES

LARGE = 2**20
COUNT = 40


@pytest.fixture
async def bench(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def publish(bench, count=COUNT, size=LARGE):
    await bench.publish(*(event(number, subject=str(number), data="x" * size) for number in range(count)))
    found = []
    while batch := await bench.log.read(found[-1].sequence if found else 0, 256):
        found += batch
    return found


def settled(stored, outcome, **more):
    return Settlement("p/s", "p", stored, 1, outcome, 1.0, 0.1, "no", **more)


async def test_a_page_of_large_events_has_all_of_them_and_the_last_in_outline(bench):
    await publish(bench)
    found, total = await bench.log.query(EventQuery(type="a.b"), 0, COUNT)
    assert (len(found), total) == (COUNT, COUNT)
    assert [one.sequence for one in found] == list(range(COUNT, 0, -1))
    assert {(one.event.id, one.event.subject) for one in found} == {(str(n), str(n)) for n in range(COUNT)}
    whole = [one for one in found if one.body]
    assert whole == found[: len(whole)]
    assert MAX_QUERY_BYTES - 2 * LARGE < sum(len(one.body) for one in whole) <= MAX_QUERY_BYTES


async def test_a_page_of_small_events_has_them_whole(bench):
    await publish(bench, size=100)
    found, _ = await bench.log.query(EventQuery(subject="7"), 0, COUNT)
    assert [one.event.data for one in found] == ["x" * 100]


async def test_large_retries_that_are_due_are_read_a_few_at_a_time_the_longest_due_first(bench):
    events = await publish(bench)
    await bench.log.cursor("p/s", start=COUNT)
    await bench.log.settle([settled(one, Outcome.RETRIED, retry_at=2.0 + at) for at, one in enumerate(events)], {}, {})
    due = await bench.log.due("p/s", 1e9, 256)
    assert [stored.sequence for _, stored in due] == list(range(1, len(due) + 1))
    assert 1 <= len(due) <= 2
    assert due[0][0].due_at == 2.0
    assert [stored.event.data for _, stored in due[:1]] == ["x" * LARGE]


async def test_a_consumer_delivers_all_large_retries_although_few_are_read_at_a_time(bench):
    failing = True

    async def answer(_call):
        if failing:
            raise RuntimeError("not yet")

    bench.plugin.answer = answer
    await bench.consumer(first_retry=1.0, longest_retry=1.0)
    await publish(bench)
    await bench.quiet()
    failing = False
    bench.plugin.calls.clear()
    await bench.advance(2.0)
    async with asyncio.timeout(30):
        while await bench.log.waiting_retries("p/s"):  # a machine that is busy may look quiet between two readings
            await bench.quiet()
    assert sorted(bench.plugin.ids, key=int) == [str(number) for number in range(COUNT)]
    assert await bench.log.waiting_retries("p/s") == 0


async def test_a_page_of_large_dead_letters_has_all_of_them_and_the_last_without_their_events(bench):
    events = await publish(bench)
    await bench.log.settle([settled(one, Outcome.DEAD_LETTERED) for one in events], {}, {})
    letters = DeadLetters(bench.log, bench.router, Audit(bench.database, bench.clock))
    page, total = await letters.page(LetterQuery(plugin="p"), 3, 35)
    assert total == COUNT
    assert [one.event_id for one in page] == [str(number) for number in range(36, 1, -1)]
    assert 0 < sum(len(one.body) for one in page) <= MAX_PAGE_BYTES
    assert page[0].body
    assert not page[-1].body
    decided = await letters.decide_all(
        LetterQuery(), [{"exact": {"subject": "2"}}], "discard", dry_run=False, actor="a"
    )
    assert decided.count == 1
    assert (await letters.page(LetterQuery(), 0, 1))[1] == COUNT - 1
