"""Connections of clients on a real socket: who is let in, who makes room, and who keeps the host waiting too long."""

import asyncio
import contextlib
import errno
import json
import socket

import pytest
import structlog
from aiohttp import web

from host.api import connection as one_connection
from host.api import connection_counts, connections
from host.api.app import Server
from host.api.connection import MAX_HEAD
from host.api.endpoint import TOKEN
from host.api.envelope import success
from host.api.listener import Listener
from host.identity.access import Role, Token
from host.observe.descriptors import Descriptors
from host.settings import Server as ServerSettings

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
KNOWN = b"GET /known HTTP/1.1\r\nHost: x\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"
FEW = {"connections": 8, "connections_per_address": 4}
SHORT = {"head_within": 0.3, "body_within": 0.3, "answer_within": 0.3}


class Rig:
    """A server whose handlers are the test's, and its clients."""

    def __init__(self, settings, descriptors):
        self.server = Server(self.handle, settings, descriptors)
        self.answer = b"x"
        self.served = 0
        self.failed = []
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.clients = []

    async def handle(self, request):
        self.served += 1
        if request.path == "/known":
            request[TOKEN] = Token("1", "ci", Role.VIEWER, 0.0, None)
        if request.path == "/held":
            self.held.set()
            await self.release.wait()
        try:
            if request.path != "/unread":
                await request.content.read()
        except ConnectionError as error:
            self.failed.append(error)
            raise
        if request.path == "/envelope":
            return success(self.answer.decode(), "trace")
        return web.Response(body=self.answer)

    async def connect(self, sends=b"", source="127.0.0.1", buffer=None):
        """A client that has sent this."""
        made = socket.socket()
        if buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.bind((source, 0))
        made.settimeout(0)
        host, _, port = self.server.address.removeprefix("http://").partition(":")
        await asyncio.get_running_loop().sock_connect(made, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=made, limit=2**16)
        self.clients.append(writer)
        writer.write(sends)
        return reader, writer

    async def asks(self, sends=GET, source="127.0.0.1"):
        """A client that has had the answer to a request, and is silent from then on."""
        reader, writer = await self.connect(sends, source)
        assert (await answer(reader))[0] == 200
        return reader, writer

    def counts(self):
        return {
            (family.name.removeprefix("busbar_connections_"), *sample.labels.values()): sample.value
            for family in self.server.connections.counts.metrics()
            for sample in family.samples
            if sample.value and not sample.name.endswith("_created")
        }

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


async def answer(reader):
    """The status and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length"))
    return int(head[0].split()[1]), await reader.readexactly(length)


async def ended(reader):
    """What was still to read when the connection ended."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.fixture
async def serve():
    made = []

    async def start(descriptors=None, **settings):
        section = ServerSettings(port=0, **settings)
        rig = Rig(section, descriptors or Descriptors.share_out(20_000, section.connections))
        made.append(rig)
        await rig.server.start()
        return rig

    yield start
    for rig in made:
        rig.release.set()
        for writer in rig.clients:
            writer.close()
        for writer in rig.clients:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await rig.server.stop()
        assert rig.server.connections.count == 0


async def test_whoever_opens_connections_and_says_nothing_keeps_nobody_of_his_address_out(serve):
    rig = await serve(**FEW)
    silent = [await rig.connect() for _ in range(20)]
    await rig.asks()
    assert rig.server.connections.count == 4
    assert rig.counts()["cut", "room"] == 17
    for reader, _ in silent[:17]:
        assert await ended(reader) == b""


async def test_many_addresses_together_keep_nobody_out_either(serve):
    rig = await serve(**FEW)
    for number in range(2, 8):
        for _ in range(4):
            await rig.connect(source=f"127.0.0.{number}")
    await rig.asks()
    assert rig.server.connections.count == 8


async def test_another_address_makes_no_room_for_one_that_has_too_many(serve):
    rig = await serve(**FEW)
    reader, writer = await rig.connect(source="127.0.0.2")
    for _ in range(20):
        await rig.connect()
    await rig.asks()
    writer.write(GET)
    assert (await answer(reader))[0] == 200


async def test_room_is_made_by_those_without_a_request_then_by_those_without_a_token(serve):
    rig = await serve(**FEW)
    known = await rig.asks(KNOWN)
    asked = await rig.asks()
    fresh = await rig.connect()
    await rig.asks()
    await rig.asks()
    assert await ended(fresh[0]) == b""
    await rig.asks()
    assert await ended(asked[0]) == b""
    for _ in range(8):
        await rig.asks()
    known[1].write(GET)
    assert (await answer(known[0]))[0] == 200


async def test_a_request_that_is_served_makes_no_room(serve):
    rig = await serve(**FEW)
    served = [await rig.connect(HELD) for _ in range(4)]
    await rig.until(lambda: rig.served == 4)
    reader, _ = await rig.connect()
    status, body = await answer(reader)
    assert (status, json.loads(body)["code"]) == (503, "too_many_connections")
    assert await ended(reader) == b""
    assert rig.counts()["refused", "address"] == 1
    rig.release.set()
    assert [(await answer(reader))[0] for reader, _ in served] == [200] * 4


async def test_a_body_that_is_waited_for_makes_room(serve):
    rig = await serve(**FEW)
    slow = [await rig.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1") for _ in range(4)]
    await rig.until(lambda: rig.served == 4)
    await rig.asks()
    assert await ended(slow[0][0]) == b""


async def test_connections_leave_the_host_descriptors_whatever_their_cap(serve):
    with socket.socket() as probe:
        lowest = probe.fileno()
    rig = await serve(Descriptors(limit=lowest + 40, connections=lowest, wanted=lowest))
    for _ in range(30):
        await rig.connect()
    await rig.until(lambda: ("refused", "descriptors") in rig.counts())
    with socket.socket() as probe:
        assert probe.fileno() < lowest + 80  # 30 of the clients' own
    assert rig.server.connections.count <= 20


class NoDescriptors:
    """A listening socket of a process that has none left; a connection waits."""

    def __init__(self, *, while_spared):
        self.while_spared = while_spared
        self.asked = 0

    def accept(self):
        self.asked += 1
        if self.asked == 2 and self.while_spared:
            made, self.peer = socket.socketpair()
            return made, ""
        raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("while_spared", [True, False])
async def test_a_process_without_descriptors_refuses_and_goes_on_listening(serve, monkeypatch, while_spared):
    monkeypatch.setattr("host.api.listener.PAUSE", 0.01)
    rig = await serve()
    waiting = NoDescriptors(while_spared=while_spared)
    rig.server._listener.accept(waiting)
    assert waiting.asked == 2
    assert rig.counts()["refused", "descriptors"] == 1
    if while_spared:
        assert waiting.peer.recv(1) == b""
        waiting.peer.close()
    await rig.asks()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
async def test_a_connection_that_fails_before_it_is_taken_ends_nothing(serve, number):
    class Failing:
        asked = 0

        def accept(self):
            self.asked += 1
            raise BlockingIOError if self.asked > 3 else OSError(number, "gone")

    rig = await serve()
    rig.server._listener.accept(Failing())
    await rig.asks()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_come_in_time_is_not_waited_for(serve, sent):
    rig = await serve(**SHORT)
    reader, _ = await rig.connect(sent)
    said = await ended(reader)
    assert (b" 408 " in said, b"head_too_slow" in said) == (bool(sent), bool(sent))
    assert rig.counts()["cut", "head"] == 1


async def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_one_that_does_not(serve):
    rig = await serve(**SHORT)
    reader, writer = await rig.asks()

    async def drip():
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    await ended(reader)  # what was said is lost where more was sent after it
    dripping.cancel()
    assert rig.counts()["cut", "head"] == 1


async def test_a_connection_may_be_silent_for_longer_between_two_requests(serve):
    rig = await serve(**SHORT, idle_for=60.0)
    reader, writer = await rig.asks()
    other, _ = await rig.connect()
    await ended(other)
    writer.write(GET)
    assert (await answer(reader))[0] == 200


async def test_a_connection_that_is_silent_for_too_long_is_closed(serve):
    rig = await serve(idle_for=0.2)
    reader, _ = await rig.asks()
    assert await ended(reader) == b""


@pytest.mark.parametrize("size", [2**10, 2**18, 2**20])
async def test_a_body_that_is_not_read_is_no_head(serve, size):
    rig = await serve()
    reader, writer = await rig.connect(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    writer.write(b"x" * size)
    assert (await answer(reader))[0] == 200
    writer.write(GET)
    assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("sent", [b"X-A: " + b"x" * 7000 + b"\r\n", b"X: y\r\n", b"\r\n"])
async def test_a_head_without_end_is_not_kept(serve, sent):
    rig = await serve()
    reader, writer = await rig.connect(b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(MAX_HEAD * 4 // len(sent)):
            writer.write(sent)
            await writer.drain()
    said = await ended(reader)
    assert b" 431 " in said or b" 400 " in said or said == b""
    await rig.until(lambda: rig.server.connections.count == 0)
    assert rig.served == 0 or sent == b"\r\n"


async def test_a_body_that_does_not_come_in_time_is_not_waited_for(serve):
    rig = await serve(**SHORT)
    reader, _ = await rig.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
    said = await ended(reader)
    assert b" 408 " in said
    assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "body_too_slow"
    await rig.until(lambda: rig.failed)
    assert rig.counts()["cut", "body"] == 1


async def test_a_body_may_take_long_where_it_keeps_coming(serve, monkeypatch):
    monkeypatch.setattr(one_connection, "LEAST_RATE", 10)
    rig = await serve(**SHORT)
    reader, writer = await rig.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    for _ in range(10):
        writer.write(b"0123456789")
        await asyncio.sleep(0.1)
    assert (await answer(reader))[0] == 200


async def test_a_handler_may_take_longer_than_a_client_may(serve):
    rig = await serve(**SHORT)
    reader, _ = await rig.connect(HELD)
    other, _ = await rig.connect()
    await ended(other)
    rig.release.set()
    assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
async def test_an_answer_that_nobody_reads_is_not_kept(serve, close):
    rig = await serve(**SHORT)
    rig.answer = b"x" * 2**25
    _, writer = await rig.connect(b"GET / HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n", buffer=4096)
    writer.transport.pause_reading()
    await rig.until(lambda: ("cut", "answer") in rig.counts())
    await rig.until(lambda: rig.server.connections.count == 0)


async def test_an_answer_may_take_long_where_it_is_read(serve):
    rig = await serve(**SHORT)
    rig.answer = b"x" * 2**23
    reader, _ = await rig.connect(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head
    for _ in range(16):
        await reader.readexactly(2**19)
        await asyncio.sleep(0.05)


async def test_small_answers_that_nobody_reads_do_not_add_up(serve):
    rig = await serve()
    rig.answer = b"x" * 60_000
    _, writer = await rig.connect(b"GET /envelope HTTP/1.1\r\nHost: x\r\n\r\n" * 5000, buffer=4096)
    writer.transport.pause_reading()
    await rig.until(lambda: rig.served)
    (connection,) = rig.server.connections._all.every
    await rig.until(lambda: connection.writing_paused)
    for _ in range(500):  # turns of the loop in which it could go on
        await asyncio.sleep(0)
    assert connection.writing_paused
    assert connection.wire.get_write_buffer_size() < 4 * 65_536
    assert rig.served < 5000


async def test_answers_that_nobody_reads_are_bounded_for_all_clients_together(serve, monkeypatch):
    monkeypatch.setattr(connections, "MAX_UNREAD", 2**26)
    rig = await serve()
    rig.answer = b"x" * 2**25
    for _ in range(6):
        _, writer = await rig.connect(GET, buffer=4096)
        writer.transport.pause_reading()
    await rig.until(lambda: rig.served == 6 and rig.counts().get(("cut", "answer"), 0) >= 3)
    assert sum(rig.server.connections._unread.values()) <= 2**26


async def test_requests_that_wait_behind_a_slow_one_are_not_read_without_bound(serve):
    rig = await serve()
    reader, writer = await rig.connect(HELD)
    await rig.held.wait()
    wide = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 5000) for n in range(8)) + b"\r\n"
    writer.write(wide * 1000)
    (connection,) = rig.server.connections._all.every
    await rig.until(lambda: connection._buffer_paused)
    for _ in range(500):
        await asyncio.sleep(0)
    assert len(connection._messages) * len(wide) < 8 * 65_536
    rig.release.set()
    for _ in range(1001):
        assert (await answer(reader))[0] == 200


async def test_what_is_refused_and_cut_is_one_line_for_an_interval(serve, monkeypatch):
    monkeypatch.setattr(connection_counts, "LINE_EVERY", 1000.0)
    with structlog.testing.capture_logs() as lines:
        rig = await serve(**FEW, **SHORT)
        for _ in range(30):
            await rig.connect()
        await rig.until(lambda: rig.server.connections.count == 0)
    said = [line for line in lines if line["event"] == "connections_refused"]
    assert len(said) == 1
    assert said[0]["last"] == "127.0.0.1"
    assert said[0]["cut"]


async def test_an_address_that_is_taken_is_said(serve):
    rig = await serve()
    host, _, port = rig.server.address.removeprefix("http://").partition(":")
    other = Listener(rig.server.connections, host, int(port))
    with pytest.raises(OSError, match="in use"):
        await other.start()
    other.stop()
    await rig.asks()
