"""The wire carries all that the log takes, and a message that it cannot carry is its sender's trouble alone."""

import asyncio
import math
import socket
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_sdk.calls import Delivery, EventCall, ServiceCall
from plugin_sdk.events import Event, new_event
from plugin_sdk.worker.wide_numbers import CODE, narrowed, widened
from plugin_sdk.worker.wire import (
    GROUPED,
    LAST_INSTANT,
    MAX_FRAME,
    MAX_MESSAGES,
    MAX_WAIT,
    Call,
    FromWorker,
    LoadFailed,
    LogLine,
    LogLines,
    Raised,
    Reply,
    ToWorker,
    UncarriableError,
    Wire,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), one, max_size=4),
    max_leaves=20,
)


@asynccontextmanager
async def wires(incoming):
    """A sending wire, and what the other end has received."""
    loop = asyncio.get_running_loop()
    mine, theirs = socket.socketpair()
    received, lost = [], loop.create_future()
    sending = Wire(ToWorker, lambda _: None, lambda _: None)
    other = Wire(incoming, received.append, lambda error: lost.done() or lost.set_result(error))
    for one, end in ((sending, mine), (other, theirs)):
        end.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        await loop.create_unix_connection(lambda one=one: one, sock=end)
    yield sending, received, lost
    sending.close()
    other.close()
    await asyncio.sleep(0)


async def _until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@given(JSON)
@settings(deadline=None)
def test_every_json_value_goes_over_the_wire_and_comes_back_the_same(value):
    event = Event.from_json(new_event("a.b", source="/s", data=value).to_json())
    call = Call(1, EventCall(event, Delivery("p/s/1", "s", 1, 1)))
    try:
        encoded = msgspec.msgpack.encode(call)
    except OverflowError:
        encoded = msgspec.msgpack.encode(narrowed(call))
    found = msgspec.msgpack.decode(encoded, type=Call, ext_hook=widened)
    assert found == call
    assert Event.trusted(found.call.event.to_json()).data == event.data


async def test_a_message_that_cannot_be_carried_takes_no_other_with_it():
    """Given three messages of one turn, when the second cannot be encoded, then the others arrive."""
    async with wires(ToWorker) as (wire, received, _):
        wire.send(Call(1, ServiceCall("a", {})))
        wire.send(Call(2, ServiceCall("b", {"wide": 2**200})))
        with pytest.raises(UncarriableError, match="Call cannot be sent"):
            wire.send(Call(3, ServiceCall("c", {"text": "\ud800"})))
        with pytest.raises(UncarriableError, match="bytes"):
            wire.send(Call(4, ServiceCall("d", {"large": "x" * MAX_FRAME})))
        wire.send(Call(5, ServiceCall("e", {})))
        await _until(lambda: len(received) == 3)
    assert [(one.id, one.call.arguments) for one in received] == [(1, {}), (2, {"wide": 2**200}), (5, {})]


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, MAX_MESSAGES, MAX_MESSAGES + 1, 3 * MAX_MESSAGES + 5])
async def test_messages_of_one_turn_arrive_in_order_however_many_they_are(count):
    async with wires(ToWorker) as (wire, received, _):
        for number in range(count):
            wire.send(Call(number, ServiceCall("m", {})))
        await _until(lambda: len(received) == count)
    assert [one.id for one in received] == list(range(count))


async def test_messages_that_are_too_large_for_one_frame_together_go_in_several():
    async with wires(ToWorker) as (wire, received, _):
        for number in range(5):
            wire.send(Call(number, ServiceCall("m", {"x": "x" * (MAX_FRAME // 3)})))
        await _until(lambda: len(received) == 5)


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "message",
    [
        Raised(1, "retry", "", math.nan),
        Raised(1, "retry", "", math.inf),
        Raised(1, "retry", "", -1.0),
        Raised(1, "retry", "", MAX_WAIT * 2),
        Raised(1, "retry", "", "soon"),
        Raised(1, "no such kind", ""),
        Raised(1, "failure", LONG),
        Raised(1, "failure", "", name=LONG),
        Raised(1, "failure", "", traceback=LONG),
        Raised(-1, "failure", ""),
        Reply(-1),
        LoadFailed(LONG, "", "", retryable=True),
        LoadFailed("", LONG, "", retryable=True),
        LoadFailed("", "", LONG, retryable=True),
        LogLines([LogLine(math.nan, "info", "x")]),
        LogLines([LogLine(math.inf, "info", "x")]),
        LogLines([LogLine(-1.0, "info", "x")]),
        LogLines([LogLine(LAST_INSTANT + 1, "info", "x")]),
        LogLines([LogLine(0.0, LONG, "x")]),
        LogLines([LogLine(0.0, "info", LONG)]),
        LogLines([LogLine(0.0, "info", "x", LONG)]),
        LogLines([], -1),
        LogLines([], 2**40),
    ],
    ids=lambda one: repr(one)[:60],
)
async def test_a_value_out_of_its_range_ends_the_connection_where_it_enters(message):
    async with wires(FromWorker) as (wire, received, lost):
        wire.send(message)
        error = await asyncio.wait_for(lost, 10)
    assert "xpected" in str(error) or "nvalid" in str(error)
    assert received == []


@pytest.mark.parametrize(
    "payload",
    [
        b"\x91\x93\x03\x01\xa3\xed\xa0\x80",  # text that is a lone surrogate
        b"\x91\x94\x04\x01\xa4drop\xa1\xff",  # text that is no UTF-8
        b"\x91\xd4\x05\x00",  # an extension of another type
        b"\x91\xd4\x01x",  # an extension that is no number
        b"\x91\xc9" + (5000).to_bytes(4, "big") + b"\x01" + b"9" * 5000,  # a number that is too long
    ],
)
async def test_what_cannot_be_decoded_ends_the_connection_and_nothing_else(payload):
    async with wires(FromWorker) as (wire, received, lost):
        wire._transport.write(len(payload).to_bytes(4, "big") + payload)
        assert await asyncio.wait_for(lost, 10) is not None
    assert received == []


def test_an_integer_is_an_extension_only_where_it_must_be():
    assert narrowed([2**63, -(2**63), 2**64 - 1, True]) == [2**63, -(2**63), 2**64 - 1, True]
    assert narrowed({"a": 2**64}) == {"a": msgspec.msgpack.Ext(CODE, b"18446744073709551616")}


class Written:
    """A transport that keeps what is written into it."""

    def __init__(self):
        self.frames = []

    def write(self, frame):
        self.frames.append(len(frame))

    def get_write_buffer_size(self):
        return 0


async def test_what_is_sent_in_one_turn_leaves_in_frames_that_are_each_decoded_in_little_time():
    wire, transport = Wire(FromWorker, lambda _: None, lambda _: None), Written()
    wire.connection_made(transport)
    wire.send(Call(0, ServiceCall("m", {"x": "x" * (2 * GROUPED)})))
    for number in range(1, 40):
        wire.send(Call(number, ServiceCall("m", {"x": "x" * 50_000})))
    wire.flush()
    alone, *together = transport.frames
    assert alone > 2 * GROUPED
    assert max(together) <= GROUPED + 100
    assert len(together) == -(-39 // (GROUPED // 50_100))


async def test_how_much_has_come_is_told_before_it_is_looked_at():
    arrived, received = [], []
    wire = Wire(ToWorker, received.append, lambda _: None, arrived=lambda count: arrived.append((count, len(received))))
    sent = b"\x00\x00\x00\x03\x91\x91\x07"
    wire.get_buffer(-1)[: len(sent)] = sent
    wire.buffer_updated(len(sent))
    assert (arrived, len(received)) == ([(len(sent), 0)], 1)
