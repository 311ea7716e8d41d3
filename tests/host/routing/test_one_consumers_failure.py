"""A mistake with one consumer is its own failure: the others are offered what is theirs, and it begins anew."""

import asyncio
import random
from collections import Counter

import pytest
from delivery_rig import event, rig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host.lifecycle import deliveries as deliveries_module
from host.lifecycle.deliveries import Deliveries, DeliveryParts
from host.registry.records import PluginRecord
from host.routing.feed import LIVE_BYTES, LIVE_EVENTS, FeedState
from host.routing.router import MAX_HELD_BYTES
from plugin_sdk.calls import SCHEDULES
from plugin_sdk.description import Description, Subscription
from plugin_sdk.errors import Retry
from plugin_sdk.resilience import RetryPolicy


@pytest.fixture
async def bench(tmp_path):
    async with rig(tmp_path, places=1000) as made:
        yield made


def failing(consumer, name, times=1):
    """Have a method of a consumer raise a few times."""
    real, left = getattr(consumer, name), [times]

    def raising(*arguments):
        if left[0]:
            left[0] -= 1
            raise LookupError("a mistake of the host's")
        return real(*arguments)

    setattr(consumer, name, raising)


async def test_an_offer_that_raises_fails_its_consumer_and_no_other(bench):
    """Given two consumers that keep up, when an offer to the first raises, then the second gets every event."""
    failures = []
    first = await bench.consumer("first", failed=failures.append)
    second = await bench.consumer("second")
    await bench.publish(event(0))
    await bench.quiet()
    failing(first, "offer")
    await bench.publish(event(1))
    await bench.publish(event(2))
    bench.consumers.remove(first)
    await bench.quiet()
    delivered = [call.event.id for call in bench.plugin.calls if call.delivery.subscription == "second"]
    assert delivered == ["0", "1", "2"]
    assert [str(error) for error in failures] == ["a mistake of the host's"]
    assert second.failure is None
    await first.stop(1)
    assert await bench.log.cursor(first.key, start=0) == 1  # what was not delivered is above it


async def test_an_index_that_raises_makes_everybody_read_from_the_log(bench):
    one, other = await bench.consumer("one"), await bench.consumer("other")
    await bench.publish(event(0))
    await bench.quiet()
    failing(bench.router._index, "candidates")
    await bench.publish(event(1), event(2))
    await bench.publish(event(3))
    await bench.quiet()
    for name in ("one", "other"):
        assert [call.event.id for call in bench.plugin.calls if call.delivery.subscription == name] == list("0123")
    assert one.failure is other.failure is None


async def test_a_commit_that_the_router_was_not_told_of_is_read_from_the_log(bench):
    await bench.consumer()
    await bench.publish(event(0))
    await bench.quiet()
    told, bench.log._appender._listeners[:] = list(bench.log._appender._listeners), []
    await bench.publish(event(1))
    bench.log._appender._listeners[:] = told
    await bench.publish(event(2))
    await bench.quiet()
    assert bench.plugin.ids == ["0", "1", "2"]


async def test_an_outcome_that_cannot_be_made_fails_the_consumer_and_leaves_no_place_taken(bench):
    failures = []
    one = await bench.consumer("one", failed=failures.append)
    failing(one._outcomes, "of")
    await bench.publish(event(1))
    async with asyncio.timeout(5):
        while not failures:
            await asyncio.sleep(0)
    await one.stop(1)
    bench.consumers.remove(one)
    assert bench.guard.in_flight == 0
    await bench.consumer("one")
    await bench.quiet()
    assert bench.plugin.ids == ["1", "1"]


async def test_an_event_of_which_no_call_can_be_made_is_a_dead_letter(bench):
    """Given a firing without the time that it was due, then it is given up on, and those beside it are delivered."""
    await bench.consumer(SCHEDULES)
    await bench.publish(event(1, data={"due": "now"}), event(2, data={}), event(3, data={"due": "now"}))
    await bench.quiet()
    assert sorted(call.delivery.event for call in bench.plugin.calls) == ["1", "3"]
    (letter,) = await bench.letters()
    assert (letter.event_id, "no call can be made" in letter.reason) == ("2", True)
    assert bench.guard.in_flight == 0


async def test_an_inline_hook_that_cancels_its_own_task_has_failed_and_is_tried_again(bench):
    async def answer(call):
        if call.delivery.attempt == 1:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    bench.plugin.ahead = False
    bench.plugin.answer = answer
    one = await bench.consumer(first_retry=1.0)
    await bench.publish(event(1))
    await bench.quiet()
    assert [attempt.error for attempt in await bench.attempts()] == ["CancelledError: the hook cancelled its own task"]
    await bench.advance(2.0)
    assert [attempt.outcome.value for attempt in await bench.attempts()] == ["retried", "delivered"]
    assert one.failure is None


async def test_live_events_are_bounded_in_number_and_in_bytes_and_none_is_lost(bench):
    """Given a plugin that does not run, when more is published than may be held, then it is read from the log later."""
    one = await bench.consumer()
    await bench.publish(event("first"))
    await bench.quiet()
    assert one._feed.state is FeedState.LIVE
    bench.plugin.stop()
    await bench.publish(*(event(f"large-{number}", data="x" * (LIVE_BYTES // 4)) for number in range(8)))
    assert bench.router.held_bytes <= LIVE_BYTES
    assert one._feed.state is FeedState.READING
    await bench.publish(*(event(number) for number in range(LIVE_EVENTS)))
    bench.plugin.start()
    await bench.quiet()
    assert len(bench.plugin.ids) == 1 + 8 + LIVE_EVENTS
    assert bench.router.held_bytes == 0


async def test_all_consumers_together_hold_no_more_than_the_routers_bound(bench, monkeypatch):
    monkeypatch.setattr("host.routing.feed.MAX_HELD_BYTES", 10_000)
    consumers = [await bench.consumer(f"s{number}") for number in range(8)]
    await bench.publish(event("first"))
    await bench.quiet()
    bench.plugin.stop()
    await bench.publish(*(event(number, data="x" * 900) for number in range(20)))
    assert bench.router.held_bytes <= 10_000 + 8 * 1_100  # one each may always be held
    assert MAX_HELD_BYTES > LIVE_BYTES
    bench.plugin.start()
    await bench.quiet()
    assert Counter(bench.plugin.ids) == dict.fromkeys(["first", *map(str, range(20))], 8)
    assert all(one.lag == 0 for one in consumers)


async def test_retries_and_waiting_events_are_read_within_a_bound_of_bytes(bench):
    async def fail(_call):
        raise Retry(after=1)

    bench.plugin.answer = fail
    one = await bench.consumer(order="strict", at_failure="set-aside")
    await bench.publish(*(event(number, data="x" * 400_000) for number in range(6)))
    await bench.quiet()
    now = bench.clock.now().timestamp() + 1000
    read = await bench.log.due(one.key, now, 256)
    assert [pending.sequence for pending, _ in read] == [1, 2, 3]
    assert [pending.sequence for pending, _ in await bench.log.due(one.key, now, 256, besides=(1, 3))] == [2, 4, 5]
    assert [stored.sequence for stored in await bench.log.waiting_events(one.key, 0, 256)] == [1, 2, 3]
    assert [stored.sequence for stored in await bench.log.waiting_events(one.key, 3, 256)] == [4, 5, 6]
    bench.plugin.answer = bench.plugin._fine
    await bench.advance(10)
    assert one.waiting_retries == 0


# -- who mends them


def parts(bench):
    return DeliveryParts(
        log=bench.log,
        replays=_NoReplays(),
        router=bench.router,
        settlements=bench.settlements,
        clock=bench.clock,
        rng=random.Random(1),
        max_dead_letters=100,
    )


class _NoReplays:
    async def running(self, _plugin):
        return []


def delivered_to(bench, *names):
    described = Description(subscriptions=tuple(Subscription(name=name, types=("a.*",)) for name in names))
    changes = []
    made = Deliveries(
        "p",
        parts(bench),
        guard=bench.guard,
        target=bench.plugin,
        timeout=10.0,
        note_first=False,
        changed=lambda: changes.append(dict(made.broken)),
    )
    record = PluginRecord.__new__(PluginRecord)
    for name, value in {"id": "p", "description": described, "policies": {}}.items():
        object.__setattr__(record, name, value)
    return made, record, changes


async def mended(deliveries):
    async with asyncio.timeout(10):
        while deliveries.broken or deliveries._mending:
            await asyncio.sleep(0.001)


async def test_a_consumer_that_failed_says_so_and_is_made_anew_from_its_cursor(bench, monkeypatch):
    monkeypatch.setattr(deliveries_module, "AGAIN", RetryPolicy(first=0.01, longest=0.02))
    deliveries, record, changes = delivered_to(bench, "s")
    await deliveries.start(record)
    await bench.publish(event(0))
    await bench.quiet()
    (before,) = deliveries.consumers
    failing(before, "offer")
    await bench.publish(event(1))
    assert deliveries.broken["p/s"].reason == "LookupError: a mistake of the host's"
    await bench.publish(event(2))
    await mended(deliveries)
    (after,) = deliveries.consumers
    assert after is not before
    assert [bool(broken) for broken in changes] == [True, False]
    async with asyncio.timeout(5):
        while after.lag:
            await asyncio.sleep(0.001)
    assert bench.plugin.ids == ["0", "1", "2"]
    await deliveries.stop(1)


async def test_deliveries_that_stop_mend_nothing_any_more(bench, monkeypatch):
    monkeypatch.setattr(deliveries_module, "AGAIN", RetryPolicy(first=30.0, longest=30.0))
    deliveries, record, _ = delivered_to(bench, "s")
    await deliveries.start(record)
    deliveries.consumers[0].fail(LookupError("a mistake"))
    await deliveries.stop(1)
    assert (deliveries.broken, deliveries._mending) == ({}, set())
    await bench.publish(event(1))
    assert bench.plugin.ids == []


@given(seed=st.integers(0, 2**32), steps=st.integers(5, 40))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_whatever_fails_at_random_every_event_reaches_every_subscription(tmp_path_factory, seed, steps):
    """A law: offers, filters, the index, the settling and the making of outcomes raise at random; nothing is lost."""
    chance = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deliveries_module, "AGAIN", RetryPolicy(first=0.001, longest=0.002))
        async with rig(tmp_path_factory.mktemp("law"), places=1000) as bench:
            deliveries, record, _ = delivered_to(bench, "one", "two", "three")
            await deliveries.start(record)
            for number in range(steps):
                victim = chance.choice(deliveries.consumers)
                match chance.randrange(8):
                    case 0:
                        failing(victim, "offer")
                    case 1:
                        failing(victim, "checkpoint")
                    case 2:
                        failing(victim._outcomes, "of")
                    case 3:
                        failing(bench.router._index, "candidates")
                    case 4:
                        failing(victim._feed, "offer")
                    case 5:
                        failing(victim._retries, "written")
                await bench.publish(event(number, "a.b"))
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            async with asyncio.timeout(20):
                while deliveries.broken or deliveries._mending or any(one.lag for one in deliveries.consumers):
                    await asyncio.sleep(0.001)
            had = Counter((call.delivery.subscription, call.event.id) for call in bench.plugin.calls)
            assert {(name, str(number)) for name in ("one", "two", "three") for number in range(steps)} == set(had)
            await deliveries.stop(1)
