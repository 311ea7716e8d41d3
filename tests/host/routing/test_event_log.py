"""The contract of an event log; every engine runs these cases."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from host.routing.errors import EventConflictError
from host.routing.event_log import DeliveryQuery, EventQuery, LetterQuery, Outcome, PendingRetry, Settlement
from host.routing.progress import Progress
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from host.storage.errors import RowRefusedError
from host.storage.log_writer.firings import ByHand, Fire
from host.storage.log_writer.links import ProcessLink, thread_link
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import new_event
from plugin_sdk.testing import FakeClock


@pytest.fixture(params=["thread", "process"])
async def database(request, tmp_path):
    """A database whose log is written by a core in a thread, and by one in a process."""
    path = tmp_path / "busbar.db"
    link = ProcessLink(path) if request.param == "process" else thread_link(path)
    opened = await Database.open(path, link=link)
    yield opened
    await opened.close()


@pytest.fixture
async def log(database):
    return await SQLiteLog.open(database, SystemClock())


def event(id_="1", type_="a.b", source="/tests", **more):
    return new_event(type_, source=source, id=id_, **more)


async def append(log, *events):
    return await asyncio.gather(*(log.append(one, one.to_json()) for one in events))


def settled(stored, outcome=Outcome.DELIVERED, **more):
    return Settlement("p/s", "p", stored, more.pop("attempt", 1), outcome, 1.0, 0.1, **more)


async def test_events_get_rising_sequences_and_read_back_in_order(log):
    answers = await append(log, *(event(str(n)) for n in range(200)))
    sequences = [answer.sequence for answer in answers]
    assert sequences == sorted(set(sequences))
    assert [stored.event.id for stored in await log.read(0, 500)] == [str(n) for n in range(200)]
    assert log.head() == sequences[-1]


async def test_the_same_event_again_is_answered_with_its_first_place_and_not_dispatched(log):
    seen = []
    log.listen(lambda _after, events: seen.extend(stored.sequence for stored in events))
    one = event()
    first, second = await append(log, one, one)
    (third,) = await append(log, one)
    assert not first.duplicate
    assert second.duplicate
    assert third.duplicate
    assert first.sequence == second.sequence == third.sequence
    assert seen == [first.sequence]


async def test_an_event_sent_again_under_another_trace_is_the_same_event(log):
    one = event()
    traced = replace_extensions(one, {"traceparent": "00-1-1-00"})
    await append(log, one)
    (again,) = await append(log, traced)
    assert again.duplicate


def replace_extensions(one, extensions):
    return type(one).from_attributes({**one.attributes(), **extensions})


async def test_another_event_under_the_same_source_and_id_is_a_conflict_and_harms_no_neighbour(log):
    await append(log, event(data=1))
    answers = await asyncio.gather(
        *(log.append(one, one.to_json()) for one in (event("2"), event(data=2), event("3"))),
        return_exceptions=True,
    )
    assert isinstance(answers[1], EventConflictError)
    assert [stored.event.id for stored in await log.read(0, 9)] == ["1", "2", "3"]


async def test_a_batch_in_which_many_events_come_twice_answers_each_with_its_place(log):
    events = [event(str(n)) for n in range(150)] * 2
    answers = await append(log, *events)
    stored = {one.event.id: one.sequence for one in await log.read(0, 500)}
    assert len(stored) == 150
    assert [answer.sequence for answer in answers] == [stored[one.id] for one in events]
    assert [answer.duplicate for answer in answers] == [False] * 150 + [True] * 150


async def test_equal_content_written_in_another_order_is_the_same_event(log):
    one = event(data={"a": 1, "b": 2})
    await log.append(one, one.to_json())
    again = await log.append(one, one.to_json().replace(b'"a":1,"b":2', b'"b":2, "a":1'))
    assert again.duplicate


async def test_listeners_hear_of_an_event_before_its_publisher_goes_on_and_always_in_order(log):
    heard = []
    log.listen(lambda _after, events: heard.extend(stored.sequence for stored in events))

    async def publisher(name):
        for n in range(40):
            one = event(f"{name}-{n}")
            assert (await log.append(one, one.to_json())).sequence in heard

    await asyncio.gather(*(publisher(name) for name in range(8)))
    assert heard == sorted(heard)
    assert len(heard) == 320
    assert log.head() == heard[-1]


async def test_a_listener_that_fails_keeps_nobody_from_hearing(log):
    heard = []
    log.listen(lambda _after, _events: 1 / 0)
    log.listen(lambda _after, events: heard.extend(events))
    await append(log, event())
    assert len(heard) == 1


async def test_a_batch_that_is_read_ends_where_its_events_grow_large(log):
    await append(log, *(event(str(n), data="x" * 400_000) for n in range(4)))
    first = await log.read(0, 100)
    assert [stored.event.id for stored in first] == ["0", "1", "2"]
    assert [stored.event.id for stored in await log.read(first[-1].sequence, 100)] == ["3"]


async def test_an_event_larger_than_a_batch_is_read_alone(log):
    await append(log, event("large", data="x" * 9_000_000), event("next"))
    assert [stored.event.id for stored in await log.read(0, 100)] == ["large"]


@pytest.fixture
async def schedule(database):
    """A schedule that can be fired by hand."""
    row = "('p/s', 'p', 's', '', 0, 1, 0)"
    await database.write(
        lambda connection: (
            connection.execute(
                f"INSERT INTO schedules (id, plugin, name, rule, anchor, active, paused) VALUES {row}"
            ).rowcount
        )
    )
    return "p/s"


def firing(schedule, one, **more):
    return ByHand(
        0.0,
        schedule,
        Fire(0, "2026-01-05T12:00:00.000Z", one.id, by_hand=True, reason="by hand", lateness=more.get("lateness", 0.0)),
    )


async def test_an_event_that_an_operation_appends_appears_with_its_commit(log, database, schedule):
    seen = []
    log.listen(lambda after, events: seen.extend((after, stored.sequence, stored.event.id) for stored in events))
    await append(log, event("before"))
    one = event("in")
    assert await log.operate("fire by hand", firing(schedule, one), [one]) is True
    assert seen == [(0, 1, "before"), (1, 2, "in")]
    assert await log.operate("fire by hand", firing(schedule, one), [one]) is True
    assert len(seen) == 2
    assert [row[0] for row in await database.read("SELECT sequence FROM firings")] == [2]


async def test_an_event_of_an_operation_that_is_refused_never_appears(log, schedule):
    seen = []
    log.listen(lambda _after, events: seen.extend(stored.event.id for stored in events))
    one = event("out")
    no_number = firing(schedule, one, lateness=float("nan"))
    with pytest.raises(RowRefusedError):
        await log.operate("fire by hand", no_number, [one])
    await append(log, event("next"))
    assert seen == ["next"]
    assert [stored.event.id for stored in await log.read(0, 9)] == ["next"]


async def test_an_operation_that_nobody_knows_is_refused(log):
    with pytest.raises(RowRefusedError, match="no operation 'make tea'"):
        await log.operate("make tea", None)


async def test_a_new_cursor_stands_where_it_is_told_and_never_moves_back(log):
    assert await log.cursor("p/s", start=5) == 5
    await log.settle([], {"p/s": 9}, {})
    await log.settle([], {"p/s": 7}, {})
    assert await log.cursor("p/s", start=0) == 9


async def test_what_is_settled_above_the_cursor_is_kept_until_the_cursor_passes_it(log):
    await log.cursor("p/s", start=0)
    await log.settle([], {"p/s": 1}, {"p/s": [3, 4]})
    assert await log.ahead("p/s") == {3, 4}
    await log.settle([], {"p/s": 3}, {})
    assert await log.ahead("p/s") == {4}


async def test_a_failed_delivery_is_due_again_at_its_time_with_its_attempts(log):
    await append(log, event())
    (stored,) = await log.read(0, 1)
    await log.settle([settled(stored, Outcome.RETRIED, retry_at=100.0, error="boom")], {"p/s": 1}, {})
    assert await log.due("p/s", 99.0, 9) == []
    assert await log.next_due("p/s", after=0) == 100.0
    ((pending, again),) = await log.due("p/s", 100.0, 9)
    assert (pending.attempt, pending.error, again.event.id) == (1, "boom", "1")
    await log.settle([settled(stored, attempt=2, noted=True)], {}, {})
    assert await log.due("p/s", 1e12, 9) == []


async def test_an_attempt_written_down_before_the_call_is_found_after_a_crash(log):
    await append(log, event())
    await log.begin([PendingRetry("p/s", 1, 1, 5.0, "started")])
    ((pending, _),) = await log.due("p/s", 5.0, 9)
    assert pending.attempt == 1


async def test_a_dead_letter_keeps_its_own_copy_and_can_be_revived_after_the_log_was_pruned(log):
    await append(log, event("a"), event("b"))
    first = (await log.read(0, 1))[0]
    await log.cursor("p/s", start=0)
    await log.settle([settled(first, Outcome.DEAD_LETTERED, error="why", traceback="line", attempt=8)], {"p/s": 2}, {})
    assert (await log.prune(1e12, 0)).events == 2
    (letter,), total = await log.dead_letters(LetterQuery(plugin="p"), 0, 10)
    assert (total, letter.reason, letter.attempts, letter.event_type) == (1, "why", 8, "a.b")
    assert await log.revive([letter.id]) == ([letter], {letter.subscription: 1})
    ((pending, again),) = await log.due("p/s", 1e12, 9)
    assert (pending.attempt, again.event.id) == (0, "a")
    assert (await log.dead_letters(LetterQuery(), 0, 10))[1] == 0


async def test_pruning_never_takes_what_a_cursor_or_a_retry_still_needs_and_says_who_holds_it(log):
    await append(log, *(event(str(n)) for n in range(10)))
    await log.cursor("p/s", start=0)
    events = await log.read(0, 10)
    await log.settle([settled(events[3], Outcome.RETRIED, retry_at=1.0)], {"p/s": 8}, {})
    pruned = await log.prune(1e12, 0)
    assert pruned.events == 3
    assert pruned.held_by == ("p/s",)
    assert [stored.sequence for stored in await log.read(0, 20)] == [4, 5, 6, 7, 8, 9, 10]


async def test_sequences_are_not_used_again_when_the_whole_log_was_pruned(log, database):
    await append(log, *(event(str(n)) for n in range(3)))
    await log.prune(1e12, 0)
    reopened = await SQLiteLog.open(database, SystemClock())
    assert reopened.head() == 3


async def test_pruning_takes_old_events_alone_while_there_is_room(database):
    clock = FakeClock()
    log = await SQLiteLog.open(database, clock)
    await append(log, event("old"))
    clock.advance(100)
    await append(log, event("new"))
    pruned = await log.prune(clock.now().timestamp() - 50, 2**31)
    assert (pruned.events, pruned.held_by) == (1, ())
    assert [stored.event.id for stored in await log.read(0, 9)] == ["new"]


async def test_pruning_stops_once_the_log_is_within_its_budget(log):
    await append(log, *(event(str(n), data="x" * 1000) for n in range(4000)))
    budget = (await log.stats()).bytes - 500_000
    pruned = await log.prune(0, budget)
    assert 0 < pruned.events < 4000
    assert (await log.stats()).bytes <= budget


async def test_a_subscription_that_a_new_release_no_longer_has_holds_nothing(log):
    await append(log, event())
    (stored,) = await log.read(0, 1)
    for name in ("p/kept", "p/gone", "pp/other"):
        await log.cursor(name, start=1)
    await log.settle([replace(settled(stored, Outcome.RETRIED, retry_at=1.0), subscription="p/gone")], {}, {})
    assert (await log.prune(1e12, 2**31)).held_by == ("p/gone",)
    await log.retire("p", {"p/kept"})
    assert (await log.prune(1e12, 2**31)).events == 1
    assert await log.due("p/gone", 1e12, 9) == []
    assert await log.cursor("p/kept", start=0) == 1
    assert await log.cursor("pp/other", start=0) == 1


async def test_a_discarded_dead_letter_is_gone(log):
    await append(log, event())
    (stored,) = await log.read(0, 1)
    await log.settle([settled(stored, Outcome.DEAD_LETTERED, error="why")], {}, {})
    ((letter,), _) = await log.dead_letters(LetterQuery(), 0, 9)
    assert await log.discard([letter.id]) == [letter]
    assert await log.discard([letter.id]) == []
    assert await log.revive([letter.id]) == ([], {})


async def test_the_sizes_of_the_log_are_told(log):
    empty = await log.stats()
    assert (empty.events, empty.head, empty.oldest_at) == (0, 0, None)
    await append(log, event("1"), event("2"))
    (first, _) = await log.read(0, 9)
    await log.settle([settled(first, Outcome.DEAD_LETTERED), settled(first, Outcome.RETRIED, retry_at=1.0)], {}, {})
    full = await log.stats()
    assert (full.events, full.head, full.retries, full.dead_letters) == (2, 2, 1, 1)
    assert full.oldest_at == first.appended_at


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=40), st.integers(0, 2**32))
async def test_whatever_the_order_of_outcomes_a_restart_repeats_exactly_what_was_not_settled(log, steps, name):
    key = f"p/{name}-{uuid.uuid4()}"
    progress = Progress(await log.cursor(key, start=0), await log.ahead(key))
    for sequence in range(1, 13):
        progress.take(sequence)
    done = set()
    for sequence, restarts in steps:
        progress.settle(sequence)
        done.add(sequence)
        position, fresh = progress.checkpoint()
        await log.settle([], {key: position}, {key: fresh})
        if restarts:
            progress = Progress(await log.cursor(key, start=0), await log.ahead(key))
            again = {at for at in range(progress.position + 1, 13) if progress.take(at)}
            assert again == set(range(1, 13)) - done


async def test_the_log_is_queried_by_type_source_subject_and_time(log):
    await append(
        log,
        event("1", "a.one", subject="x"),
        event("2", "a.two", source="/other"),
        event("3", "b.one", subject="x"),
    )
    found, total = await log.query(EventQuery(type="a.*"), 0, 10)
    assert ([one.event.id for one in found], total) == (["2", "1"], 2)
    assert (await log.query(EventQuery(subject="x"), 0, 1))[1] == 2
    assert (await log.query(EventQuery(source="/other"), 0, 10))[1] == 1
    at = found[0].appended_at
    assert (await log.query(EventQuery(until=at), 0, 10))[1] == 0
    assert (await log.query(EventQuery(since=at), 0, 10))[1] == 3
    assert [one.event.id for one in (await log.query(EventQuery(since=at), 1, 1))[0]] == ["2"]
    assert (await log.query(EventQuery(type="a.[ot]*"), 0, 10))[1] == 0
    assert (await log.query(EventQuery(type="a.two", since=at, until=at + 1), 0, 10))[1] == 1
    assert [one.event.source for one in await log.find("2")] == ["/other"]


async def test_the_attempt_log_is_read_by_plugin_and_outcome(log):
    await append(log, event())
    (stored,) = await log.read(0, 1)
    await log.settle([settled(stored, Outcome.RETRIED, retry_at=1.0), settled(stored, attempt=2)], {}, {})
    found, total = await log.deliveries("p", DeliveryQuery(), 0, 10)
    assert ([one.attempt for one in found], total) == ([2, 1], 2)
    found, total = await log.deliveries("p", DeliveryQuery(Outcome.RETRIED), 0, 10)
    assert total == 1


async def test_forgetting_a_plugin_spares_one_whose_name_begins_alike(log):
    await log.cursor("p/s", start=3)
    await log.cursor("pp/s", start=4)
    await log.forget("p")
    assert await log.cursor("p/s", start=0) == 0
    assert await log.cursor("pp/s", start=0) == 4


APPENDING = """
import asyncio, sys
from pathlib import Path
from host.routing.progress import Progress
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from host.storage.errors import RowRefusedError
from host.storage.log_writer.firings import ByHand, Fire
from host.storage.log_writer.links import ProcessLink, thread_link
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import new_event

async def main():
    log = await SQLiteLog.open(await Database.open(Path(sys.argv[1])), SystemClock())
    async def publisher(name):
        for n in range(100000):
            event = new_event("crash.test", source="/crash", id=f"{name}-{n}")
            await log.append(event, event.to_json())
            print(event.id, flush=True)
    await asyncio.gather(*(publisher(name) for name in range(32)))

asyncio.run(main())
"""


async def test_every_append_that_was_answered_survives_sigkill(tmp_path):
    for number in range(3):
        path = tmp_path / f"{number}.db"
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        answered = [child.stdout.readline().strip() for _ in range(300 + 500 * number)]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines()
        child.wait()
        database = await Database.open(path)
        log = await SQLiteLog.open(database, SystemClock())
        kept = {stored.event.id for stored in await log.read(0, 1_000_000)}
        assert set(answered) | set(rest[:-1]) <= kept
        await database.close()
