"""Delivery by policy: attempts and waits, ages, limits, order, and what becomes of what is given up."""

import asyncio
import json
from datetime import timedelta

import pytest
from delivery_rig import event, keyed, rig

from host.routing.event_log import Outcome
from host.routing.log_deliveries import letter_weight
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from plugin_sdk.errors import DeadLetter, Drop, Retry


@pytest.fixture(params=["begun", "in a task"])
async def bench(tmp_path, request):
    async with rig(tmp_path) as made:
        made.plugin.ahead = request.param == "begun"
        yield made


def failing(*events):
    """A plugin that fails at these events, always."""

    async def answer(call):
        if call.event.id in events:
            raise RuntimeError(f"cannot take {call.event.id}")

    return answer


WAITS = [
    ({"first_retry": 1.0}, [1, 2, 4]),
    ({"first_retry": 2.0, "growth": "linear"}, [2, 4, 6]),
    ({"first_retry": 1.0, "longest_retry": 3.0}, [1, 2, 3]),
    ({"retry_delays": (5.0, 60.0)}, [5, 60, 60]),
]


@pytest.mark.parametrize(("policy", "waits"), WAITS, ids=[str(case[0]) for case in WAITS])
async def test_a_failed_delivery_is_tried_again_after_the_waits_of_the_policy_and_then_given_up(bench, policy, waits):
    bench.plugin.answer = failing("1")
    await bench.consumer(attempts=4, **policy)
    await bench.publish(event(1))
    await bench.quiet()
    for made, wait in enumerate(waits, 1):
        await bench.advance(wait - 0.5)
        assert len(bench.plugin.calls) == made
        await bench.advance(0.5)
        assert len(bench.plugin.calls) == made + 1
    (letter,) = await bench.letters()
    assert letter.attempts == 4
    assert letter.reason == "gave up after 4 attempts: RuntimeError: cannot take 1"
    assert [one["attempt"] for one in json.loads(letter.history)] == [1, 2, 3, 4]
    assert all("cannot take 1" in one["error"] for one in json.loads(letter.history))


async def test_a_retry_that_the_plugin_asks_for_comes_when_it_asked_but_no_later_than_the_policy_allows(bench):
    async def later(call):
        raise Retry(after=timedelta(hours=10))

    bench.plugin.answer = later
    await bench.consumer(longest_asked=60.0)
    await bench.publish(event(1))
    await bench.quiet()
    await bench.advance(59)
    assert len(bench.plugin.calls) == 1
    await bench.advance(1)
    assert len(bench.plugin.calls) == 2


@pytest.mark.parametrize(
    ("verdict", "outcome"), [(Drop("not ours"), Outcome.DROPPED), (DeadLetter("broken"), Outcome.DEAD_LETTERED)]
)
async def test_a_verdict_of_the_plugin_decides_at_once(bench, verdict, outcome):
    async def decide(call):
        raise verdict

    bench.plugin.answer = decide
    await bench.consumer()
    await bench.publish(event(1))
    await bench.quiet()
    (line,) = await bench.attempts()
    assert (line.outcome, line.error) == (outcome, verdict.reason)


async def test_an_event_older_than_the_policy_allows_is_given_up_without_a_call(bench):
    bench.plugin.stop()
    await bench.consumer(max_age=60.0)
    await bench.publish(event(1))
    await bench.advance(61)
    await bench.publish(event(2))
    bench.plugin.start()
    await bench.quiet()
    assert bench.plugin.ids == ["2"]
    (letter,) = await bench.letters()
    assert letter.event_id == "1"
    assert letter.reason.startswith("expired: it waited longer than the 60 s")


@pytest.mark.parametrize(
    ("expiry", "delivered"),
    [("2026-01-01T00:00:30Z", False), ("2026-01-01T02:00:00+01:00", True), ("no instant", True), ("", True)],
)
async def test_an_event_is_of_no_use_after_its_own_expiry_time(bench, expiry, delivered):
    bench.plugin.stop()
    await bench.consumer()
    await bench.publish(event(1, extensions={"expirytime": expiry} if expiry else {}))
    await bench.advance(31)
    bench.plugin.start()
    await bench.quiet()
    assert bench.plugin.ids == (["1"] if delivered else [])


async def test_what_is_given_up_is_discarded_where_the_policy_says_so_and_the_attempt_log_tells(bench):
    bench.plugin.answer = failing("1")
    await bench.consumer(attempts=1, dead_letters="discard")
    await bench.publish(event(1))
    await bench.quiet()
    assert await bench.letters() == []
    (line,) = await bench.attempts()
    assert line.outcome is Outcome.DROPPED
    assert line.error.startswith("discarded by policy: gave up after 1 attempts")


async def test_no_more_dead_letters_are_kept_than_allowed_and_what_has_no_room_waits_for_it(bench):
    async def refuse(call):
        raise DeadLetter(f"no {call.event.id}")

    bench.plugin.answer = refuse
    await bench.consumer(max_dead_letters=1, longest_retry=100.0)
    await bench.publish(event(1))
    await bench.quiet()
    await bench.publish(event(2))
    await bench.quiet()
    (letter,) = await bench.letters()
    assert letter.event_id == "1"
    await bench.log.discard([letter.id])
    await bench.advance(100)
    (letter,) = await bench.letters()
    assert (letter.event_id, letter.reason) == ("2", "no 2")


async def test_no_more_bytes_of_dead_letters_are_kept_than_allowed_and_a_decision_makes_room(bench):
    async def refuse(call):
        raise DeadLetter(f"no {call.event.id}")

    bench.plugin.answer = refuse
    await bench.consumer(max_letter_bytes=3000, longest_retry=100.0)
    for number in (1, 2, 3):
        await bench.publish(event(number, data="x" * 2000))
        await bench.quiet()
    letters = await bench.letters()
    assert sorted(letter.event_id for letter in letters) == ["1", "2"]  # the one that fills it up is kept, too
    assert bench.log.letter_bytes("p") == sum(letter_weight(letter) for letter in letters)
    again = await SQLiteLog.open(await Database.open(bench.database.path), bench.clock)
    assert again.letter_bytes("p") == bench.log.letter_bytes("p") > 4000
    await again._database.close()
    await bench.log.revive([letters[0].id])
    assert bench.log.letter_bytes("p") == letter_weight(letters[1])
    await bench.log.discard([letters[1].id])
    assert bench.log.letter_bytes("p") == 0
    await bench.advance(100)
    assert "3" in {letter.event_id for letter in await bench.letters()}
    await bench.log.forget("p")
    assert bench.log.letter_bytes("p") == 0


async def test_no_more_deliveries_are_in_flight_than_the_policy_allows(bench):
    most, now = 0, 0

    async def count(call):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    bench.plugin.answer = count
    await bench.consumer(in_flight=2)
    await bench.publish(*(event(n) for n in range(12)))
    await bench.quiet()
    assert len(bench.plugin.calls) == 12
    assert most == 2


async def test_a_rate_spreads_deliveries_over_time(bench):
    loop = asyncio.get_running_loop()
    at = []

    async def note(call):
        at.append(loop.time())
        bench.clock.advance(0)

    bench.plugin.answer = note
    await bench.consumer(rate=50.0)
    await bench.publish(*(event(n) for n in range(60)))
    await bench.quiet()
    # 50 may come at once, the other ten at 20 ms each (the bucket's clock stands still, so each waits its own time).
    assert len(at) == 60
    assert at[-1] - at[49] >= 0.19


async def test_of_two_subscriptions_that_wait_for_one_place_the_one_with_the_higher_priority_goes_first(tmp_path):
    async with rig(tmp_path, places=1) as bench:
        free = asyncio.Event()

        async def hold(call):
            await free.wait()

        bench.plugin.answer = hold
        low = await bench.consumer("low", types=("low",), priority=-1)
        high = await bench.consumer("high", types=("high",), priority=5)
        await bench.publish(event(0, "low"))
        while not bench.plugin.calls:
            await asyncio.sleep(0.005)
        await bench.publish(event(1, "low"), event(2, "high"), event(3, "high"))
        while not bench.guard.waiting:
            await asyncio.sleep(0.005)
        free.set()
        await bench.quiet()
        assert bench.plugin.ids[:2] == ["0", "2"]
        assert sorted(bench.plugin.ids) == ["0", "1", "2", "3"]
        assert (low.in_flight, high.in_flight) == (0, 0)


# -- order


async def test_without_an_order_a_failed_event_keeps_nobody_waiting(bench):
    bench.plugin.answer = failing("1")
    await bench.consumer()
    await bench.publish(*(event(n) for n in range(4)))
    await bench.quiet()
    assert sorted(bench.plugin.ids) == ["0", "1", "2", "3"]


async def test_in_strict_order_one_event_is_delivered_after_the_other(bench):
    most, now = 0, 0

    async def count(call):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    bench.plugin.answer = count
    await bench.consumer(order="strict")
    await bench.publish(*(event(n) for n in range(40)))
    await bench.quiet()
    assert bench.plugin.ids == [str(n) for n in range(40)]
    assert most == 1


async def test_in_strict_order_those_behind_a_failed_event_wait_until_it_is_delivered(bench):
    failures = iter([True, True, False])

    async def fail_twice(call):
        if call.event.id == "1" and next(failures):
            raise RuntimeError("not yet")

    bench.plugin.answer = fail_twice
    await bench.consumer(order="strict", first_retry=10.0)
    await bench.publish(*(event(n) for n in range(3)))
    await bench.quiet()
    assert bench.plugin.ids == ["0", "1"]
    await bench.advance(10)
    assert bench.plugin.ids == ["0", "1", "1"]
    await bench.advance(20)
    assert bench.plugin.ids == ["0", "1", "1", "1", "2"]


async def test_in_strict_order_a_failed_event_that_is_set_aside_lets_the_others_pass(bench):
    bench.plugin.answer = failing("1")
    await bench.consumer(order="strict", at_failure="set-aside", first_retry=10.0)
    await bench.publish(*(event(n) for n in range(4)))
    await bench.quiet()
    assert bench.plugin.ids == ["0", "1", "2", "3"]
    await bench.advance(10)
    assert bench.plugin.ids == ["0", "1", "2", "3", "1"]


async def test_in_strict_order_a_dead_letter_lets_the_others_pass(bench):
    bench.plugin.answer = failing("1")
    await bench.consumer(order="strict", attempts=1)
    await bench.publish(*(event(n) for n in range(3)))
    await bench.quiet()
    assert bench.plugin.ids == ["0", "1", "2"]
    assert [letter.event_id for letter in await bench.letters()] == ["1"]


async def test_in_order_by_key_only_events_of_one_key_wait_for_each_other(bench):
    bench.plugin.answer = failing("a1")
    await bench.consumer(order="by-key", first_retry=10.0)
    await bench.publish(keyed("a1", "a"), keyed("a2", "a"), keyed("b1", "b"), event("none"), keyed("b2", "b"))
    await bench.quiet()
    assert sorted(bench.plugin.ids) == ["a1", "b1", "b2", "none"]
    bench.plugin.answer = failing()
    await bench.advance(10)
    assert bench.plugin.ids[-2:] == ["a1", "a2"]


async def test_an_order_outlives_a_stop_while_an_event_waits_for_its_next_attempt(tmp_path):
    async with rig(tmp_path) as first:
        first.plugin.answer = failing("a1")
        await first.consumer(order="by-key", first_retry=10.0)
        await first.publish(keyed("a1", "a"), keyed("a2", "a"), keyed("b1", "b"))
        await first.quiet()
        assert sorted(first.plugin.ids) == ["a1", "b1"]
        clock = first.clock
    async with rig(tmp_path, clock=clock) as second:
        await second.consumer(order="by-key", first_retry=10.0)
        await second.quiet()
        assert second.plugin.ids == []
        await second.advance(10)
        assert second.plugin.ids == ["a1", "a2"]


async def test_events_wait_in_their_places_while_the_plugin_does_not_run(bench):
    await bench.consumer(order="strict", at_failure="set-aside")
    bench.plugin.stop()
    await bench.publish(*(event(n) for n in range(3)))
    await bench.quiet()
    assert bench.plugin.calls == []
    bench.plugin.start()
    await bench.quiet()
    assert bench.plugin.ids == ["0", "1", "2"]


# -- an inline plugin that ends the host


async def test_an_event_that_ends_the_host_again_and_again_is_given_up_after_its_attempts(tmp_path):
    async def hang(call):
        await asyncio.Event().wait()

    clock = None
    for attempt in (1, 2):
        async with rig(tmp_path, clock=clock) as bench:
            clock = bench.clock
            bench.plugin.answer = hang
            consumer = await bench.consumer(attempts=2, note_first=True)
            if attempt == 1:
                await bench.publish(event(1))
            while not bench.plugin.calls:
                await asyncio.sleep(0.005)
            assert [call.delivery.attempt for call in bench.plugin.calls] == [attempt]
            await consumer.stop(0)  # as a kill: what is in flight is not settled
            bench.consumers.clear()
    async with rig(tmp_path, clock=clock) as bench:
        await bench.consumer(attempts=2, note_first=True)
        await bench.quiet()
        assert bench.plugin.calls == []
        (letter,) = await bench.letters()
        assert letter.attempts == 2
        assert letter.reason == "the host or the worker stopped during the last attempt"


# -- following the log


async def test_an_event_that_is_committed_while_a_batch_is_read_is_not_passed_over(bench):
    read = bench.log.read

    async def read_and_let_another_commit(after, limit):
        batch = await read(after, limit)
        bench.log.read = read
        await bench.publish(event(1))  # dispatched before this read is answered, and not in its snapshot
        return batch

    bench.log.read = read_and_let_another_commit
    await bench.consumer()
    await bench.quiet()
    assert bench.plugin.ids == ["1"]
