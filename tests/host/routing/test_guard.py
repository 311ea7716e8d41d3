"""The guard of deliveries: how many may be on their way, which of them have begun, and what their ends mean."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.routing.attempts import Attempt
from host.routing.errors import HookTimeoutError, NoSuchDeliveryError
from host.routing.event_log import StoredEvent
from host.routing.guard import AHEAD_SECONDS, MAX_AHEAD, Guard
from host.runtime.errors import HookFailedError, WorkerDiedError
from plugin_sdk.errors import Retry
from plugin_sdk.events import new_event
from plugin_sdk.resilience import Breaker, BreakerPolicy, BreakerState
from plugin_sdk.testing import FakeClock

FAILED = HookFailedError("LookupError", "no")


class Runtime:
    """What a guard says to a runtime."""

    def __init__(self):
        self.told = []

    def cancel(self, one):
        self.told.append(("cancel", one))

    def recall(self, some):
        self.told.append(("recall", list(some)))

    def go_on(self):
        self.told.append("go on")


class Owner:
    """A consumer with as much to deliver as there is room for; what it hears is kept."""

    hook = "on_event"

    def __init__(self, guard, runtime, *, priority=0, key="p/s", timeout=10.0):
        self.guard, self.runtime, self.priority, self.key, self.timeout = guard, runtime, priority, key, timeout
        self.wants = 0
        self.made, self.heard, self.back, self.failures = [], [], [], []
        self.landing = lambda _landings: None

    def pump(self):
        while self.wants and (room := self.guard.room(self)):
            count = min(room, self.wants)
            self.wants -= count
            self.make(count)

    def make(self, count):
        event = new_event("a.b", source="/tests")
        made = [
            Attempt(self, StoredEvent(len(self.made) + number, event, b"{}", 0.0), 1, self.timeout)
            for number in range(count)
        ]
        self.guard.admit(made)
        for one in made:
            one.runtime = self.runtime
        self.made += made
        return made

    def want(self, count):
        self.wants += count
        self.pump()

    def landed(self, landings):
        self.landing(landings)
        self.heard += [(one, error) for one, error, _ in landings]

    def recalled(self, attempts):
        self.back += attempts

    def fail(self, error):
        self.failures.append(error)


class Bench:
    def __init__(self, places=2, ahead=MAX_AHEAD, **policy):
        self.clock = FakeClock()
        self.breaker = Breaker(BreakerPolicy(**policy), clock=self.clock)
        self.guard = Guard("p", breaker=self.breaker, places=places, ahead=ahead)
        self.runtime = Runtime()
        self.owner = Owner(self.guard, self.runtime)

    def end(self, *attempts, error=None, seconds=0.0):
        self.guard.landed([(one, error, seconds) for one in attempts])

    @property
    def measures(self):
        return self.guard.measures["on_event"]


def begun(attempts):
    return [one.begun for one in attempts]


async def test_a_delivery_that_ends_well_is_told_and_leaves_its_place():
    bench = Bench()
    bench.owner.want(1)
    (one,) = bench.owner.made
    assert bench.guard.in_flight == 1
    bench.end(one, seconds=0.5)
    assert bench.owner.heard == [(one, None)]
    assert (bench.guard.in_flight, bench.measures.succeeded, bench.measures.seconds) == (0, 1, 0.5)


async def test_a_plugin_that_was_never_tried_has_no_more_on_their_way_than_places():
    bench = Bench(places=2)
    bench.owner.want(10)
    assert len(bench.owner.made) == 2


async def test_what_goes_well_lets_as_many_more_be_on_their_way_and_a_failure_ends_it():
    bench = Bench(places=2)
    bench.owner.want(100)
    bench.end(*bench.owner.made)
    assert len(bench.owner.made) == 2 + 2 + 2  # two places, and two ahead
    bench.end(*bench.owner.made[2:])
    assert len(bench.owner.made) == 6 + 2 + 6
    bench.end(bench.owner.made[-1], error=FAILED)
    assert len(bench.owner.made) == 14  # only what is on its way
    bench.end(*bench.owner.made[6:13])
    assert len([one for one in bench.owner.made if not one.over]) == 2 + 7


async def test_never_more_than_the_bound_is_ahead_and_nothing_where_none_may_be():
    for ahead, expected in ((MAX_AHEAD, 2 + MAX_AHEAD), (0, 2)):
        bench = Bench(places=2, ahead=ahead)
        bench.owner.want(10_000)
        for _ in range(20):
            bench.end(*(one for one in bench.owner.made if not one.over))
        assert len([one for one in bench.owner.made if not one.over]) == expected


async def test_a_plugin_that_takes_its_time_has_no_more_ahead_than_it_does_in_a_moment():
    bench = Bench(places=4)
    bench.owner.want(10_000)
    for _ in range(200):
        bench.end(*(one for one in bench.owner.made if not one.over), seconds=AHEAD_SECONDS)
    assert 4 <= len([one for one in bench.owner.made if not one.over]) <= 4 + 5
    for _ in range(400):
        bench.end(*(one for one in bench.owner.made if not one.over), seconds=AHEAD_SECONDS * 100)
    assert len([one for one in bench.owner.made if not one.over]) == 4


async def test_what_is_ahead_begins_in_order_as_places_are_left():
    bench = Bench(places=2)
    bench.owner.want(2)
    bench.end(*bench.owner.made)
    bench.owner.want(4)
    first, second, third, fourth = bench.owner.made[2:]
    assert begun((first, second, third, fourth)) == [True, True, False, False]
    bench.end(second)
    assert begun((third, fourth)) == [True, False]


async def test_where_the_runtime_dies_only_what_had_begun_counts_as_tried():
    bench = Bench(places=2)
    bench.owner.want(2)
    bench.end(*bench.owner.made)
    bench.owner.want(4)
    bench.owner.heard.clear()
    first, second, third, fourth = bench.owner.made[2:]
    died = WorkerDiedError("killed")
    bench.end(first, second, third, fourth, error=died)
    assert bench.owner.heard == [(first, died), (second, died)]
    assert bench.owner.back == [third, fourth]
    assert bench.guard.in_flight == 0
    assert bench.breaker.snapshot().consecutive_failures == 2


async def test_a_verdict_is_the_decision_of_a_healthy_plugin():
    bench = Bench()
    for _ in range(20):
        bench.owner.want(1)
        bench.end(bench.owner.made[-1], error=Retry(5))
    assert bench.breaker.state is BreakerState.CLOSED
    assert bench.measures.decided == 20
    assert bench.runtime.told == []


async def test_after_a_failure_the_runtime_is_told_to_go_on():
    bench = Bench()
    bench.owner.want(1)
    bench.end(bench.owner.made[0], error=FAILED)
    assert bench.runtime.told == ["go on"]
    assert bench.breaker.snapshot().consecutive_failures == 1


async def test_when_the_breaker_opens_what_has_not_begun_is_asked_back_and_comes_later():
    bench = Bench(places=1, consecutive_failures=1)
    bench.owner.want(1)
    bench.end(bench.owner.made[0])
    bench.owner.want(2)
    failing, waits = bench.owner.made[1:]
    bench.end(failing, error=FAILED)
    assert bench.breaker.state is BreakerState.OPEN
    assert bench.runtime.told == [("recall", [waits])]
    bench.guard.recalled([waits])
    assert bench.owner.back == [waits]
    assert bench.guard.in_flight == 0
    assert bench.guard.room(bench.owner) == 0


async def test_an_operator_who_forces_the_breaker_open_has_what_has_not_begun_back():
    bench = Bench(places=1)
    bench.owner.want(1)
    bench.end(bench.owner.made[0])
    bench.owner.want(2)
    bench.breaker.force_open("by hand")
    assert bench.runtime.told == [("recall", [bench.owner.made[2]])]


async def test_a_half_open_breaker_lets_its_probes_through_and_all_once_they_went_well():
    bench = Bench(places=50, open_for=1.0, probes=3, jitter=0.0, consecutive_failures=5)
    bench.owner.want(5)
    bench.end(*bench.owner.made, error=FAILED)
    bench.owner.want(50)
    assert len(bench.owner.made) == 5
    bench.clock.advance(2.0)
    bench.owner.pump()
    probes = bench.owner.made[5:]
    assert (len(probes), bench.breaker.state) == (3, BreakerState.HALF_OPEN)
    bench.end(*probes)
    await asyncio.sleep(0)
    assert bench.breaker.state is BreakerState.CLOSED
    assert len(bench.owner.made) == 5 + 50


async def test_one_that_waits_at_an_open_breaker_is_pumped_when_its_time_is_over():
    clock = asyncio.get_running_loop()

    class Clock(FakeClock):
        def monotonic(self):
            return clock.time()

    guard = Guard("p", breaker=Breaker(BreakerPolicy(open_for=0.05, jitter=0.0), clock=Clock()), places=1)
    guard.breaker.force_open("first")
    owner = Owner(guard, Runtime())
    owner.want(1)
    guard.breaker.close("then")
    async with asyncio.timeout(10):
        while not owner.made:
            await asyncio.sleep(0.005)
    guard.landed([(owner.made[0], None, 0.0)])
    for _ in range(5):
        owner.want(1)
        guard.landed([(owner.made[-1], FAILED, 0.0)])
    owner.want(1)
    assert len(owner.made) == 6
    async with asyncio.timeout(10):
        while len(owner.made) < 7:
            await asyncio.sleep(0.005)


async def test_a_delivery_that_takes_too_long_is_cancelled_and_counts_as_a_failure():
    bench = Bench()
    bench.owner.timeout = 0.02
    bench.owner.want(1)
    (late,) = bench.owner.made
    async with asyncio.timeout(10):
        while not bench.owner.heard:
            await asyncio.sleep(0.005)
    ((_, error),) = bench.owner.heard
    assert isinstance(error, HookTimeoutError)
    assert bench.runtime.told == [("cancel", late), "go on"]
    assert (bench.measures.timed_out, bench.guard.in_flight) == (1, 0)
    bench.end(late)  # an answer that crossed
    assert len(bench.owner.heard) == 1


async def test_time_counts_from_when_a_delivery_has_begun():
    bench = Bench(places=1)
    bench.owner.want(1)
    bench.end(bench.owner.made[0])
    bench.owner.timeout = 0.05
    bench.owner.want(2)
    running, waiting = bench.owner.made[1:]
    async with asyncio.timeout(10):
        while not running.over:
            await asyncio.sleep(0.005)
    assert not waiting.over
    assert waiting.begun


async def test_a_running_delivery_can_start_its_time_limit_anew():
    bench = Bench()
    bench.owner.timeout = 0.2
    bench.owner.want(2)
    kept, left = bench.owner.made
    async with asyncio.timeout(10):
        while not left.over:
            bench.guard.extend("p/s/0")
            await asyncio.sleep(0.005)
    assert not kept.over
    bench.end(kept)
    with pytest.raises(NoSuchDeliveryError):
        bench.guard.extend("p/s/0")


async def test_what_nobody_wants_any_more_counts_for_nothing_and_makes_room():
    bench = Bench(places=1)
    bench.owner.want(2)
    (one,) = bench.owner.made
    bench.guard.cancel(one)
    await asyncio.sleep(0)
    assert bench.runtime.told == [("cancel", one)]
    assert bench.owner.heard == []
    assert bench.breaker.snapshot().calls == 0
    assert len(bench.owner.made) == 2


async def test_the_higher_priority_goes_first_and_equals_take_turns():
    bench = Bench(places=4, ahead=0)
    low = bench.owner
    high = Owner(bench.guard, bench.runtime, priority=5, key="p/high")
    equal = Owner(bench.guard, bench.runtime, key="p/equal")
    low.want(100)
    equal.want(100)
    high.want(6)
    assert (len(low.made), len(equal.made), len(high.made)) == (4, 0, 0)
    bench.end(*low.made)
    assert (len(low.made), len(equal.made), len(high.made)) == (4, 0, 4)
    bench.end(*high.made)
    assert len(high.made) == 6
    for _ in range(50):
        bench.end(*(one for owner in (low, equal, high) for one in owner.made if not one.over))
    assert low.made[4:]
    assert abs(len(low.made) - len(equal.made)) <= 8


async def test_an_owner_that_makes_a_mistake_is_its_own_trouble():
    bench = Bench()
    other = Owner(bench.guard, bench.runtime, key="p/other")

    def mistake(_landings):
        raise LookupError("lost")

    bench.owner.landing = mistake
    bench.owner.want(1)
    other.want(1)
    bench.end(*bench.owner.made, *other.made)
    assert len(bench.owner.failures) == 1
    assert len(other.heard) == 1
    assert bench.guard.in_flight == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["want", "well", "fail", "cancel", "die", "back"]), st.integers(1, 9))))
def test_whatever_happens_no_place_is_lost_and_nothing_is_told_twice(steps):
    """A law: every attempt is heard of once at most, and what is in flight never exceeds the places."""

    async def run():
        bench = Bench(places=3, consecutive_failures=10**6, failure_rate=1.0, minimum_calls=10**6)
        owner, cancelled = bench.owner, []
        for what, count in steps:
            left = [one for one in owner.made if not one.over]
            some = left[:count]
            match what:
                case "want":
                    owner.want(count)
                case "well":
                    bench.end(*some)
                case "fail":
                    bench.end(*some, error=FAILED)
                case "cancel":
                    cancelled += some
                    for one in some:
                        bench.guard.cancel(one)
                case "die":
                    bench.end(*left, error=WorkerDiedError("killed"))
                case "back":
                    bench.guard.recalled([one for one in left if not one.begun])
            assert bench.guard.in_flight <= 3
            assert bench.guard.in_flight == sum(one.begun and not one.over for one in owner.made)
            assert sum(not one.over for one in owner.made) <= 3 + MAX_AHEAD
        owner.wants = 0
        bench.end(*(one for one in owner.made if not one.over))
        assert bench.guard.in_flight == 0
        told = [one for one, _ in owner.heard] + owner.back + cancelled
        assert sorted(map(id, told)) == sorted(map(id, owner.made))

    asyncio.run(run())
