"""The way between host and process: messages in order with their sockets, and what ends it."""

import asyncio
import os
import socket

import msgspec
import pytest

from host.api.processes.channel import MAX_FRAME, Channel
from host.api.processes.wire import Gone, Moved, Published, Taken, ToHost

DECODER = msgspec.msgpack.Decoder(ToHost | Published)


class End:
    """One end, and what it heard."""

    def __init__(self, connection):
        self.heard = []
        self.lost = 0
        self.channel = Channel(connection, DECODER, lambda *found: self.heard.append(found), self._lost)
        self.channel.start()

    def _lost(self):
        self.lost += 1

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def ends():
    pair = socket.socketpair()
    made = [End(one) for one in pair]
    yield made
    for one in made:
        one.channel.close()


async def test_messages_come_in_order_and_each_socket_beside_its_own(ends):
    near, far = ends
    pairs = [socket.socketpair() for _ in range(100)]
    for number, (mine, _) in enumerate(pairs):
        near.channel.send(Gone(number))
        near.channel.send(Moved(number, "127.0.0.1", b"x" * number), mine.fileno())
        mine.close()
    await far.until(lambda: len(far.heard) == 200)
    for number, (_, theirs) in enumerate(pairs):
        (gone, nothing), (moved, beside) = far.heard[2 * number : 2 * number + 2]
        assert (gone, nothing) == (Gone(number), None)
        assert (moved.number, len(moved.came)) == (number, number)
        with beside, theirs:
            theirs.send(b"%d" % number)
            assert beside.recv(10) == b"%d" % number


async def test_what_the_kernel_does_not_take_waits_and_arrives_whole(ends):
    near, far = ends
    mine, theirs = socket.socketpair()
    large = Published(1, [Taken(number, duplicate=False) for number in range(50_000)])
    with mine, theirs:
        for number in range(5):
            near.channel.send(large)
            near.channel.send(Moved(number, "a", b""), mine.fileno())
        assert near.channel.waiting_bytes > 0
        await near.channel.flushed()
        await far.until(lambda: len(far.heard) == 10)
        assert near.channel.waiting_bytes == 0
        assert [found for found, _ in far.heard[::2]] == [large] * 5
        for _, beside in far.heard[1::2]:
            beside.close()


@pytest.mark.parametrize(
    "garbage",
    [(MAX_FRAME + 1).to_bytes(4, "big"), b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x81\xa0", b""],
    ids=["too long", "no MessagePack", "no message", "the end"],
)
async def test_an_end_that_says_what_cannot_be_read_is_lost_once(garbage):
    mine, theirs = socket.socketpair()
    end = End(theirs)
    with mine:
        mine.send(garbage)
        mine.shutdown(socket.SHUT_WR)
        await end.until(lambda: end.lost)
        await asyncio.sleep(0)
        assert end.lost == 1
        end.channel.send(Gone(1))
        assert end.channel.closed


async def test_sockets_that_nobody_took_are_closed_with_the_channel(ends):
    near, far = ends
    before = len(os.listdir("/proc/self/fd"))
    mine, theirs = socket.socketpair()
    filler = Published(1, [Taken(number, duplicate=False) for number in range(100_000)])
    with mine, theirs:
        near.channel.send(filler)
        near.channel.send(Moved(1, "a", b""), mine.fileno())
    near.channel.close()
    far.channel.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2
