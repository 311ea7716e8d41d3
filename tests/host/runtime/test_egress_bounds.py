"""What one plugin's door stands, and that its neighbours notice nothing: silent names, odd bytes, floods, no room."""

import asyncio
import contextlib
import os
import resource
import socket

import pytest
import structlog.testing
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import given as each
from hypothesis import strategies as st
from name_server import name_server

from host.resolver import Resolver
from host.runtime import egress
from host.runtime.egress import EgressBroker

# The hook that is to come in the fixture's place would run all the tests beside this file on both loops, too.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")

PROMPT = 30
"""Seconds after which a test gives up; none of them measures."""


@pytest.fixture(scope="module", params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request):
    """Both loops: the daemon's, and the one of the standard library, which `plugin dev` runs on."""
    return request.param()


@pytest.fixture
async def echo():
    """The port of an outside service that sends back what it gets."""

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def doors():
    """A maker of doors of one host, all behind the same broker."""
    opened = []
    brokers = {}

    def make(plugin, *granted, resolve=None):
        broker = brokers.setdefault(resolve, EgressBroker(resolve))
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        opened.append(broker.open(plugin, granted, listener))
        return Way(listener.getsockname(), broker.counts(plugin))

    yield make
    for one in opened:
        one.close()
        await asyncio.wait([one._task])


class Way:
    """A plugin's side of its door."""

    def __init__(self, address, counts):
        self.address = address
        self.counts = counts

    async def send(self, data):
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(data)
        return reader, writer

    async def ask(self, target):
        """The status and the code that a CONNECT is answered with."""
        reader, writer = await self.send(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode("latin-1"))
        async with asyncio.timeout(PROMPT):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
        code = next((line.partition(": ")[2] for line in head.splitlines() if line.startswith("X-Busbar-Code")), "")
        return int(head.split()[1]), code

    async def until(self, condition):
        async with asyncio.timeout(PROMPT):
            while not condition(self.counts):
                await asyncio.sleep(0.005)


# Names whose server is silent


@pytest.mark.parametrize("number", [30, 300])
async def test_silent_names_of_one_plugin_keep_no_other_from_its_own(doors, echo, number):
    async with name_server(api__example__com=["127.0.0.1"]) as (server, address):
        resolve = Resolver([address]).resolve
        hostile = doors("hostile", "*:443", resolve=resolve)
        neighbour = doors("neighbour", f"localhost:{echo}", "api.example.com:443", resolve=resolve)
        held = [
            await hostile.send(f"CONNECT n{one}.silent.example:443 HTTP/1.1\r\n\r\n".encode()) for one in range(number)
        ]
        expected = min(number, egress.MAX_CONNECTIONS)
        await hostile.until(lambda counts: counts.open == expected)
        async with asyncio.timeout(PROMPT):
            await server.heard(egress.MAX_LOOKUPS)
        assert await neighbour.ask(f"localhost:{echo}") == (200, "")
        assert await neighbour.ask("api.example.com:443") == (403, "address_refused")  # its name is looked up, too
        assert hostile.counts.open == expected
        assert hostile.counts.refused.total() <= number - expected
        assert hostile.counts.refused["name_not_resolved"] == 0
        assert len({name for name in server.asked if name.endswith("silent.example")}) == egress.MAX_LOOKUPS
        for _, writer in held:
            writer.close()


async def test_who_waits_for_a_silent_name_in_vain_is_told_so(doors, monkeypatch):
    monkeypatch.setattr(egress, "RESOLVE_SECONDS", 0.05)
    async with name_server() as (_, address):
        way = doors("hostile", "*:443", resolve=Resolver([address]).resolve)
        answers = await asyncio.gather(*(way.ask(f"n{one}.silent.example:443") for one in range(20)))
    assert set(answers) == {(502, "name_not_resolved")}
    assert way.counts.open <= 20


async def test_closing_the_door_gives_the_look_ups_up(echo):
    async with name_server() as (server, address):
        listener = socket.create_server(("127.0.0.1", 0))
        door = EgressBroker(Resolver([address]).resolve).open("hostile", ("*:443",), listener)
        way = Way(listener.getsockname(), None)
        held = [await way.send(f"CONNECT n{one}.silent.example:443 HTTP/1.1\r\n\r\n".encode()) for one in range(20)]
        await server.heard(egress.MAX_LOOKUPS)
        door.close()
        async with asyncio.timeout(PROMPT):
            await asyncio.wait([door._task])
            for reader, writer in held:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
    assert door._task.cancelled()


async def test_a_name_that_changes_its_address_is_connected_to_where_it_was_looked_at(doors, echo):
    asked = []

    async def rebinding(host, _port):
        asked.append(host)
        return ["192.0.2.1", "169.254.169.254"] if len(asked) == 1 else ["127.0.0.1"]

    way = doors("hostile", f"rebound.example.com:{echo}", resolve=rebinding)
    assert await way.ask(f"rebound.example.com:{echo}") == (403, "address_refused")
    assert await way.ask(f"rebound.example.com:{echo}") == (403, "address_refused")
    assert asked == ["rebound.example.com"] * 2  # once for each connection: nothing asks again between look and leap


# A door goes on


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("a..b:443", (400, "name_invalid")),
        (f"{'a' * 64}.example.com:443", (400, "name_invalid")),
        (f"{'a' * 2000}:443", (400, "name_invalid")),
        ("[fe80::1%25lo]:443", (400, "name_invalid")),
        ("exa%6dple.com:443", (400, "name_invalid")),
        ("b\xfccher.example:443", (400, "malformed")),
        ("example.com\0:443", (400, "malformed")),
        ("example.com:+443", (400, "malformed")),
        ("example.com:0", (400, "malformed")),
        ("user@example.com:443", (400, "malformed")),
        ("0x7f.1:443", (403, "address_refused")),
    ],
)
async def test_after_an_odd_name_the_door_is_open(doors, echo, target, answer):
    way = doors("hostile", "*:443", f"localhost:{echo}")
    assert await way.ask(target) == answer
    assert await way.ask(f"localhost:{echo}") == (200, "")


@pytest.mark.parametrize("error", [UnicodeError("label too long"), ValueError("odd"), RuntimeError("odd"), KeyError(1)])
async def test_whatever_is_raised_in_serving_a_connection_ends_that_one_and_is_logged(doors, echo, error):
    async def resolve(host, _port):
        if host == "localhost":
            return ["127.0.0.1"]
        raise error

    way = doors("hostile", "*:443", f"localhost:{echo}", resolve=resolve)
    tunnel = await way.send(f"CONNECT localhost:{echo} HTTP/1.1\r\n\r\n".encode())
    assert await tunnel[0].readuntil(b"\r\n\r\n")
    with structlog.testing.capture_logs() as logged:
        for _ in range(20):
            reader, writer = await way.send(b"CONNECT odd.example.com:443 HTTP/1.1\r\n\r\n")
            async with asyncio.timeout(PROMPT):
                assert await reader.read() == b""
            writer.close()
    failures = [line for line in logged if line["event"] == "egress_connection_failed"]
    assert {line["plugin"] for line in failures} == {"hostile"}
    assert 0 < len(failures) < 20
    assert way.counts.refused["failed"] == 20
    assert await way.ask(f"localhost:{echo}") == (200, "")
    tunnel[1].write(b"still here")
    async with asyncio.timeout(PROMPT):
        assert await tunnel[0].readexactly(10) == b"still here"
    tunnel[1].close()


def test_whatever_bytes_come_the_door_goes_on():
    heads = st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=80).map(lambda raw: b"CONNECT " + raw + b":443 HTTP/1.1\r\n\r\n"),
        st.binary(max_size=80).map(lambda raw: b"GET http://" + raw + b"/ HTTP/1.1\r\n\r\n"),
        st.integers(8000, 40_000).map(lambda size: b"CONNECT " + b"a" * size),
    )

    async def nowhere(_host, _port):
        raise OSError("no such name")

    async def talk(loads):
        listener = socket.create_server(("127.0.0.1", 0))
        broker = EgressBroker(nowhere)
        door = broker.open("hostile", ("*:*",), listener)
        way = Way(listener.getsockname(), broker.counts("hostile"))
        for raw in loads:
            reader, writer = await way.send(raw)
            writer.write_eof()
            with contextlib.suppress(ConnectionResetError):
                answer = await reader.read()
                assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 502 "))
            writer.close()
        assert await way.ask("gone.example.com:443") == (502, "name_not_resolved")
        assert way.counts.refused["failed"] == 0
        door.close()
        await asyncio.wait([door._task])

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @each(st.lists(heads, min_size=1, max_size=5))
    def talked(loads):
        asyncio.run(asyncio.wait_for(talk(loads), PROMPT))

    talked()


async def test_a_door_without_a_descriptor_for_the_next_connection_takes_it_when_there_is_one(doors, echo, monkeypatch):
    monkeypatch.setattr(egress, "ACCEPT_PAUSE", 0.02)
    way = doors("unlucky", f"localhost:{echo}")
    client = socket.socket()
    client.settimeout(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with structlog.testing.capture_logs() as logged:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_first_free(), hard))
        try:
            await asyncio.get_running_loop().sock_connect(client, way.address)
            async with asyncio.timeout(PROMPT):
                while not any(line["event"] == "egress_not_accepted" for line in logged):
                    await asyncio.sleep(0.005)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(f"CONNECT localhost:{echo} HTTP/1.1\r\n\r\n".encode())
    async with asyncio.timeout(PROMPT):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


def _first_free():
    """The limit at which no further descriptor can be opened."""
    probe = os.dup(0)
    os.close(probe)
    return probe


# Floods and the slow


async def test_a_flood_of_connections_is_refused_and_harms_nobody_else(doors, echo):
    hostile = doors("hostile", f"localhost:{echo}")
    neighbour = doors("neighbour", f"localhost:{echo}")
    held = [await hostile.send(b"") for _ in range(egress.MAX_CONNECTIONS)]
    await hostile.until(lambda counts: counts.open == egress.MAX_CONNECTIONS)
    answers = await asyncio.gather(*(hostile.ask(f"localhost:{echo}") for _ in range(5)))
    assert set(answers) == {(503, "too_many_connections")}
    flood = [await hostile.send(f"CONNECT localhost:{echo} HTTP/1.1\r\n\r\n".encode()) for _ in range(200)]
    await hostile.until(lambda counts: counts.refused["too_many_connections"] == 205)
    assert hostile.counts.open == egress.MAX_CONNECTIONS
    assert await neighbour.ask(f"localhost:{echo}") == (200, "")
    for _, writer in (*held, *flood):
        writer.close()
    await hostile.until(lambda counts: counts.open == 0)
    assert await hostile.ask(f"localhost:{echo}") == (200, "")


async def test_both_doors_of_a_plugin_have_one_share(doors, echo, monkeypatch):
    monkeypatch.setattr(egress, "MAX_CONNECTIONS", 2)
    old = doors("upgraded", f"localhost:{echo}")
    new = doors("upgraded", f"localhost:{echo}")
    held = [await old.send(b""), await new.send(b"")]
    await new.until(lambda counts: counts.open == 2)
    assert await new.ask(f"localhost:{echo}") == (503, "too_many_connections")
    for _, writer in held:
        writer.close()


async def test_heads_that_drip_are_cut_off_and_counted(doors, echo, monkeypatch):
    monkeypatch.setattr(egress, "HEAD_SECONDS", 0.1)
    way = doors("slow", f"localhost:{echo}")
    reader, writer = await way.send(b"CONNECT ")

    async def drip():
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(PROMPT):
            assert await reader.read() == b""
    await way.until(lambda counts: counts.open == 0)
    assert way.counts.refused == {"head_late": 1}
    dripping.cancel()
    writer.close()


async def test_a_peer_that_takes_nothing_any_more_is_given_up_and_holds_no_place(doors, monkeypatch):
    monkeypatch.setattr(egress, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(egress, "CLOSE_SECONDS", 0.05)

    async def pour(_reader, writer):
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    way = doors("deaf", f"localhost:{port}")
    with socket.create_connection(way.address) as client:
        client.sendall(f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n".encode())
        await way.until(lambda counts: counts.open == 1 and counts.received > 0)
        await way.until(lambda counts: counts.open == 0)
        client.settimeout(PROMPT)
        assert await asyncio.to_thread(_ends, client)
    server.close()


def _ends(client):
    """Read what is left; whether the other side has hung up, too."""
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


async def test_peers_that_vanish_at_any_moment_leave_the_door_as_it_was(doors, echo):
    way = doors("hasty", f"localhost:{echo}")
    for data in (b"", b"CONN", f"CONNECT localhost:{echo} HTTP/1.1\r\n\r\n".encode()):
        for linger in (b"\1\0\0\0\0\0\0\0", b"\0" * 8):  # reset at once, or ended in good order
            with socket.create_connection(way.address) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.sendall(data)
            await asyncio.sleep(0)
    await way.until(lambda counts: counts.open == 0)
    assert await way.ask(f"localhost:{echo}") == (200, "")
    assert way.counts.refused["failed"] == 0


async def test_who_has_said_all_it_has_to_say_still_hears_the_answer(doors, echo):
    way = doors("half-open", f"localhost:{echo}")
    reader, writer = await way.send(f"CONNECT localhost:{echo} HTTP/1.1\r\n\r\nhello".encode())
    writer.write_eof()
    async with asyncio.timeout(PROMPT):
        assert (await reader.read()).endswith(b"\r\n\r\nhello")
    writer.close()


async def test_a_door_that_fails_in_a_way_that_nobody_foresaw_is_opened_anew(doors, echo, monkeypatch):
    monkeypatch.setattr(egress, "ACCEPT_PAUSE", 0.01)
    take, failed = egress.Door._accepted, []

    async def fails_once(door, listener):
        if not failed:
            failed.append(1)
            raise LookupError("no")
        return await take(door, listener)

    monkeypatch.setattr(egress.Door, "_accepted", fails_once)
    with structlog.testing.capture_logs() as logged:
        way = doors("example", f"localhost:{echo}")
        async with asyncio.timeout(PROMPT):
            reader, writer = await asyncio.open_connection(*way.address)
            writer.write(f"CONNECT localhost:{echo} HTTP/1.1\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["door_opened_anew"]


async def test_however_many_connections_are_full_a_plugin_has_one_chunk_of_each_turn_of_the_loop(
    doors, echo, monkeypatch
):
    turns, at, write = [], 0, egress._write

    def tick():
        nonlocal at
        at += 1
        asyncio.get_running_loop().call_soon(tick)

    def written(writer, data):
        if len(data) > 1000:
            turns.append(at)
        write(writer, data)

    way = doors("greedy", f"localhost:{echo}")
    connections = [await way.send(f"CONNECT localhost:{echo} HTTP/1.1\r\n\r\n".encode()) for _ in range(8)]
    for reader, _ in connections:
        await reader.readuntil(b"\r\n\r\n")
    monkeypatch.setattr(egress, "_write", written)
    tick()

    async def exchange(reader, writer):
        writer.write(bytes(2**20))
        await reader.readexactly(2**20)
        writer.close()

    async with asyncio.timeout(PROMPT):
        await asyncio.gather(*(exchange(*one) for one in connections))
    assert len(turns) >= 8 * 2 * 2**20 // egress.CHUNK
    assert len(set(turns)) == len(turns)
