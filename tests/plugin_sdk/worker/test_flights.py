"""Deliveries in a worker: begun in order, so many at once, answered in groups, and none after a failure until told."""

import asyncio

import pytest

from plugin_sdk.calls import Flight
from plugin_sdk.errors import Retry
from plugin_sdk.events import new_event
from plugin_sdk.worker.flights import Flights
from plugin_sdk.worker.wire import Deliver, Done, Raised, Recalled


class Plugin:
    """A hook whose deliveries end when the test says so; those in `quick` end at once."""

    def __init__(self, limit=2):
        self.begun, self.sent, self.ended = [], [], {}
        self.quick = set()
        self.raises = {}
        self.flights = Flights(self.run, self.sent.append, limit)

    async def run(self, call):
        sequence = call.delivery.sequence
        self.begun.append(sequence)
        if sequence not in self.quick:
            await self.ended.setdefault(sequence, asyncio.get_running_loop().create_future())
        if sequence in self.raises:
            raise self.raises[sequence]

    async def take(self, *sequences):
        body = new_event("a.b", source="/tests").to_json()
        flight = Flight("p/s", "s", replay=False, unfiltered=False)
        message = Deliver(100 + sequences[0], flight, [(sequence, 1, body) for sequence in sequences])
        # As a message comes: in a callback of the loop, where no task is the current one.
        asyncio.get_running_loop().call_soon(self.flights.take, message)
        await self.quiet()

    async def end(self, *sequences):
        for sequence in sequences:
            self.ended[sequence].set_result(None)
        await self.quiet()

    async def quiet(self):
        for _ in range(6):
            await asyncio.sleep(0)

    @property
    def done(self):
        return [number for message in self.sent if isinstance(message, Done) for number in message.ids]


@pytest.fixture
async def plugin():
    return Plugin()


async def test_as_many_are_begun_as_there_are_places_and_the_others_in_their_order(plugin):
    await plugin.take(1, 2, 3, 4)
    assert plugin.begun == [1, 2]
    await plugin.end(2)
    assert plugin.begun == [1, 2, 3]
    assert plugin.done == [102]


async def test_those_that_never_wait_are_answered_in_one_message(plugin, monkeypatch):
    monkeypatch.setattr("plugin_sdk.worker.flights.TURN_SECONDS", 60.0)
    plugin.quick = set(range(1, 51))
    await plugin.take(*range(1, 51))
    (message,) = plugin.sent
    assert message.ids == list(range(101, 151))
    assert len(message.seconds) == 50


async def test_after_a_failure_none_is_begun_until_the_host_says_so(plugin):
    plugin.raises = {1: LookupError("no")}
    await plugin.take(1, 2, 3, 4)
    await plugin.end(1)
    (raised,) = plugin.sent
    assert isinstance(raised, Raised)
    assert (raised.id, raised.kind, plugin.begun) == (101, "failure", [1, 2])
    await plugin.end(2)
    assert plugin.begun == [1, 2]
    plugin.flights.go_on()
    await plugin.quiet()
    assert plugin.begun == [1, 2, 3, 4]


async def test_a_verdict_holds_up_nothing(plugin):
    plugin.raises = {1: Retry(5)}
    await plugin.take(1, 2, 3)
    await plugin.end(1)
    assert plugin.begun == [1, 2, 3]


async def test_only_what_has_not_begun_is_given_back(plugin):
    plugin.raises = {1: LookupError("no")}
    await plugin.take(1, 2, 3, 4)
    await plugin.end(1)
    plugin.flights.recall([102, 103, 104])
    await plugin.quiet()
    assert plugin.sent[-1] == Recalled([103, 104])
    assert plugin.begun == [1, 2]
    await plugin.take(5)
    assert plugin.begun == [1, 2, 5]


async def test_a_cancelled_delivery_hears_of_it_and_its_place_is_free_at_once(plugin):
    heard, release = [], asyncio.Event()

    async def stubborn(call):
        plugin.begun.append(call.delivery.sequence)
        try:
            await release.wait()
        except asyncio.CancelledError:
            heard.append(call.delivery.sequence)
            await release.wait()

    plugin.flights = Flights(stubborn, plugin.sent.append, 1)
    await plugin.take(1, 2)
    plugin.flights.cancel(101)
    await plugin.quiet()
    assert heard == [1]
    assert plugin.begun == [1, 2]
    release.set()
    await plugin.quiet()
    assert plugin.done == [101, 102]


async def test_a_cancelled_delivery_that_has_not_begun_is_given_back(plugin):
    await plugin.take(1, 2, 3)
    plugin.flights.cancel(103)
    await plugin.end(1, 2)
    assert plugin.begun == [1, 2]
    assert plugin.sent[0] == Recalled([103])


async def test_what_is_no_event_is_a_dead_letter_and_those_behind_it_go_on(plugin):
    plugin.quick = {2}
    flight = Flight("p/s", "s", replay=False, unfiltered=False)
    body = new_event("a.b", source="/tests").to_json()
    message = Deliver(101, flight, [(1, 1, b"no event"), (2, 1, body)])
    asyncio.get_running_loop().call_soon(plugin.flights.take, message)
    await plugin.quiet()
    kinds = {message.id: message.kind for message in plugin.sent if isinstance(message, Raised)}
    assert kinds == {101: "dead-letter"}
    assert plugin.done == [102]


async def test_a_long_row_of_busy_hooks_lets_the_loop_turn(plugin, monkeypatch):
    monkeypatch.setattr("plugin_sdk.worker.flights.TURN_SECONDS", 0.0)
    plugin.quick = set(range(1, 11))
    turns = []
    loop = asyncio.get_running_loop()

    def turn():
        turns.append(len(plugin.begun))
        if len(plugin.begun) < 10:
            loop.call_soon(turn)

    loop.call_soon(turn)
    await plugin.take(*range(1, 11))
    await asyncio.sleep(0.05)
    assert len(set(turns)) >= 5
    assert plugin.done == list(range(101, 111))
