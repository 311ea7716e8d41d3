"""Real HTTP processes beside a host whose bus is the test's: what moves where, and what becomes of whom."""

import asyncio
import hashlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from aiohttp import web
from odd_values import BODIES, VALUES, with_field

from host.api.app import Routes, Server
from host.api.bodies import KNOWN_BYTES
from host.api.connection import MAX_MOVES
from host.api.endpoint import Endpoint
from host.api.processes import http_process, http_processes, remote
from host.api.processes.http_processes import HttpProcessEndedError, HttpProcesses
from host.api.processes.wire import Begin
from host.api.resources.events import Events
from host.api.resources.publishing import Publishing
from host.identity.access import Role, Token, Tokens
from host.observe.descriptors import Descriptors
from host.observe.metrics import RequestCounts
from host.routing.errors import EventConflictError, EventRefusedError, LogFullError, PublishRateError
from host.routing.event_log import Appended
from host.settings import Server as ServerSettings
from host.storage.errors import StorageFailedError
from plugin_sdk.clock import SystemClock

SECRET = "bbt_publisher"
MAX_EVENT = 2**20


class ScriptedBus:
    """Answers each event as its type says; keeps those it took."""

    def __init__(self):
        self.taken = []
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()

    async def publish(self, event):
        (found,) = await self.publish_many([event])
        if isinstance(found, Exception):
            raise found
        return found

    async def publish_many(self, events):
        self.calls += 1
        await self.open.wait()
        if any(event.type == "crash" for event in events):
            raise RuntimeError("the log is not what it was")
        return [self._one(event) for event in events]

    def _one(self, event):
        refusals = {
            "full": LogFullError("the log is full: make room", retry_after=5.0),
            "conflict": EventConflictError(event.source, event.id),
            "rate": PublishRateError("slow down", retry_after=1.5),
            "disk": StorageFailedError("is the disk full?", retry_after=1.0),
            "large": EventRefusedError.too_large(5, 4),
            "odd": LogFullError("\x1b" * 4000, errors=["one", "\u202e"]),
            "busbar.x": EventRefusedError.reserved("busbar.x"),
        }
        if event.type in refusals:
            return refusals[event.type]
        duplicate = event.id in self.taken
        if not duplicate:
            self.taken.append(event.id)
        return Appended(self.taken.index(event.id) + 1, duplicate=duplicate)


class NotedRefusals:
    """Keeps what it is told of."""

    def __init__(self):
        self.noted = []

    async def note(self, refused):
        self.noted.append(refused)


class Rig:
    """A host with so many HTTP processes, on a real socket."""

    def __init__(self, count, options):
        self.bus, self.refusals, self.counts = ScriptedBus(), NotedRefusals(), RequestCounts()
        self.tokens = Tokens(None, None, SystemClock())
        self.add(SECRET, Role.OPERATOR)
        settings = ServerSettings(port=0, **options)
        rows = (
            *Events(Publishing(self.bus, MAX_EVENT), None).endpoints(),
            Endpoint("GET", "/here", "here", "Served by the host.", None, raw=self._here, quiet=True),
            Endpoint("POST", "/here", "alsoHere", "The same, with a body.", None, raw=self._here, quiet=True),
        )
        routes = Routes(rows, self.tokens, self.counts, self.refusals)
        self.server = Server(routes, settings, Descriptors.share_out(4096, settings.connections))
        begin = Begin(
            MAX_EVENT,
            KNOWN_BYTES,
            settings.head_within,
            settings.body_within,
            settings.idle_for,
            settings.answer_within,
            "info",
            "json",
        )
        self.processes = HttpProcesses(
            begin, self.server.connections, self.tokens, self.bus, self.refusals, self.counts
        )
        self.count = count
        self.lives = []
        self.clients = []

    async def _here(self, request):
        return web.Response(text=f"host: {len(await request.read())}")

    def add(self, secret, role, expires_at=None):
        hashed = hashlib.sha256(secret.encode()).digest()
        self.tokens.table.by_hash[hashed] = Token(secret, secret, role, 0.0, expires_at)
        return hashed

    async def start(self):
        await self.server.start()
        self.lives = [asyncio.create_task(self.processes.live()) for _ in range(self.count)]
        await self.until(lambda: len(self.ready) == self.count)
        return self

    @property
    def ready(self):
        return [one for one in self.processes._running if one.ready]

    @property
    def away(self):
        return sum(len(one.away) for one in self.processes._running)

    async def stop(self):
        for client in self.clients:
            client.close()
        self.server.listen_no_more()
        await self.processes.stop(2.0)
        for life in self.lives:
            life.cancel()
        await asyncio.gather(*self.lives, return_exceptions=True)
        await self.server.stop()

    async def client(self, source="127.0.0.1"):
        made = socket.socket()
        made.bind((source, 0))
        made.settimeout(0)
        host, _, port = self.server.address.removeprefix("http://").partition(":")
        await asyncio.get_running_loop().sock_connect(made, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=made)
        self.clients.append(writer)
        return Client(reader, writer)

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def ask(self, sends):
        self.writer.write(sends)
        return await self.answer()

    async def answer(self):
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["Content-Length"]))

    async def ended(self):
        async with asyncio.timeout(30):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


def event(id_="1", type_="a.b", **more):
    return json.dumps({"specversion": "1.0", "id": id_, "source": "/t", "type": type_, **more}).encode()


def post(body, *lines, secret=SECRET, kind="application/cloudevents+json", path="/api/v1/events"):
    head = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {secret}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return "".join(f"{line}\r\n" for line in head).encode() + b"\r\n" + body


def batch(*events):
    return post(b"[" + b",".join(events) + b"]", kind="application/cloudevents-batch+json")


GET = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def rig():
    made = []

    async def make(count=1, **options):
        made.append(Rig(count, options))
        return await made[-1].start()

    yield make
    for one in made:
        await one.stop()


@pytest.fixture
async def host(rig):
    return await rig()


# What goes where


async def test_a_client_that_publishes_is_served_by_a_process_and_one_that_asks_by_the_host(host):
    publisher, asker = await host.client(), await host.client()
    assert (await publisher.ask(post(event())))[0] == 202
    assert (await asker.ask(GET))[2] == b"host: 0"
    assert host.away == 1
    assert host.server.connections.count == 2


async def test_a_connection_moves_as_often_as_its_requests_do_and_then_stays(host):
    client = await host.client()
    for turn in range(2 * MAX_MOVES):
        assert (await client.ask(post(event(str(turn)))))[0] == 202
        assert (await client.ask(GET))[2] == b"host: 0"
    assert host.away == 0
    assert len(host.bus.taken) == 2 * MAX_MOVES


SEQUENCES = {
    "publish twice": [post(event("1")), post(event("2"))],
    "publish, then ask": [post(event("1")), GET],
    "ask, then publish": [GET, post(event("1"))],
    "a body for the host between two": [post(event("1")), post(b"body", path="/here"), post(event("2"))],
    "wrong token behind a right one": [post(event("1")), post(event("2"), secret="bbt_wrong")],
    "chunks behind a length": [
        post(event("1")),
        b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        post(event("2")),
    ],
    "a request in a body": [post(GET), post(event("1"))],
    "a large body": [post(event("1", data="x" * 300_000)), GET],
    "many": [post(event(str(n))) for n in range(100)],
}


@pytest.mark.parametrize("cut", [10**9, 1009, 7], ids=["at once", "in pieces", "in crumbs"])
async def test_whatever_comes_behind_whatever_is_answered_in_order_as_without_processes(rig, cut):
    hosts = [await rig(0), await rig(1)]
    for name, requests in SEQUENCES.items():
        sent = b"".join(requests)
        size = max(cut, len(sent) // 100)
        found = []
        for host in hosts:
            host.bus.taken.clear()
            client = await host.client()
            for at in range(0, len(sent), size):
                client.writer.write(sent[at : at + size])
                await asyncio.sleep(0)
            found.append(([plain(await client.answer()) for _ in requests], host.bus.taken))
        assert found[0] == found[1], name


HALVES = {
    "of a head": [b"GET /here HTTP/1.1\r\nHost: x\r\nX: ", post(event())],
    "of a line": [b"GET /here HTTP/1.1\r\nHost: x\r\n", post(event())],
    "of a head behind a request": [GET + b"GET /here HTTP/1.1\r\n", post(event())],
    "of a head behind a body": [
        b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo",
        b"dyGET /here HTTP/1.1\r\nX: ",
        post(event()),
    ],
    "of a body": [b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", post(event()), b"x" * 1000],
    "of a chunk": [
        b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n",
        post(event()),
        b"x" * 5000,
    ],
    "of a body that is not read": [
        b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
        post(event()),
        b"x" * 1000,
    ],
    "of a blank line": [GET + b"\r", b"\n" + post(event())],
    "of an upgrade": [GET[:-2] + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n", post(event())],
}


async def test_what_looks_like_publishing_in_the_middle_of_something_else_is_part_of_that(rig):
    hosts = [await rig(0), await rig(1)]
    for name, parts in HALVES.items():
        found = []
        for host in hosts:
            host.bus.taken.clear()
            client = await host.client()
            for part in parts:
                client.writer.write(part)
                await asyncio.sleep(0.05)
            client.writer.write_eof()
            async with asyncio.timeout(30):
                came = await client.reader.read()
            found.append(([line for line in came.split(b"\r\n") if line.startswith(b"HTTP/")], [*host.bus.taken]))
        assert found[0] == found[1], name


def plain(answer):
    """An answer without what is different in each."""
    status, headers, body = answer
    if body.startswith(b"{"):
        body = {name: value for name, value in json.loads(body).items() if name not in {"timestamp", "traceId"}}
    lasting = {name: value for name, value in headers.items() if name not in {"Date", "X-Trace-ID", "Content-Length"}}
    return status, list(lasting.items()), body


ANSWERED = {
    "taken": post(event()),
    "binary": post(
        b'{"a": 1}', "ce-specversion: 1.0", "ce-id: 1", "ce-source: /t", "ce-type: a", kind="application/json"
    ),
    "bytes": post(b"\x00\xff", "ce-specversion: 1.0", "ce-id: 1", "ce-source: /t", "ce-type: a", kind="image/png"),
    "wide": post(event(data=2**200)),
    "letters": post(event("\u00e4\U0001f600")),
    "no JSON": post(b"{"),
    "no event": post(b"{}"),
    "no body": post(b""),
    "another format": post(b"<a/>", kind="application/cloudevents+xml"),
    "coded": post(b"x", "Content-Encoding: br"),
    "traced": post(event(), f"traceparent: 00-{'a' * 32}-{'b' * 16}-01"),
    "reserved": post(event(type_="busbar.x")),
    "conflict": post(event(type_="conflict")),
    "full": post(event(type_="full")),
    "rate": post(event(type_="rate")),
    "disk": post(event(type_="disk")),
    "large": post(event(type_="large")),
    "odd": post(event(type_="odd")),
    "larger than any": post(b" " * (MAX_EVENT + 1) + event()),
    "viewer": post(event(), secret="bbt_viewer"),
    "batch": batch(event("1"), b"{}", event("2", "full"), event("3"), b"7", event("1")),
    "batch refused": batch(event("1", "rate"), event("2", "full")),
    "batch of none": batch(),
    "batch of bad ones": batch(b"{}", b"1"),
    "batch of many": batch(*(event(str(n)) for n in range(1000))),
    "batch of too many": batch(*(event(str(n)) for n in range(1001))),
    "forged": post(event(), "X-Forwarded-For: 192.0.2.1", "X-Busbar-Token: admin", "Forwarded: for=192.0.2.1"),
}


async def test_every_answer_and_every_count_is_what_it_is_without_processes(rig):
    without, beside = await rig(0), await rig(1)
    for host in (without, beside):
        host.add("bbt_viewer", Role.VIEWER)
        await host.processes._changed()
    for name, request in ANSWERED.items():
        found = []
        for host in (without, beside):
            client = await host.client()
            found.append(plain(await client.ask(request)))
        assert found[0] == found[1], name
    assert without.bus.taken == beside.bus.taken
    assert [one.remote for one in beside.refusals.noted] == [one.remote for one in without.refusals.noted]
    assert beside.refusals.noted == without.refusals.noted
    assert {one.code for one in beside.refusals.noted} == {"event_type_reserved", "forbidden"}
    await beside.until(lambda: beside.counts._counts == without.counts._counts)


async def test_no_odd_value_in_an_event_is_answered_otherwise_than_without_processes(rig):
    without, beside = await rig(0), await rig(1)
    body = {"specversion": "1.0", "id": "1", "source": "/t", "type": "a"}
    odd = [with_field(body, name, value) for name in ("id", "time", "data", "odd") for value in VALUES]
    requests = [post(one) for one in [*odd, *VALUES]] + [batch(one, event("2")) for one in odd]
    requests += [post(raw, kind=kind) for kind, raw in BODIES if kind.isascii() and kind.isprintable()]
    clients = [await host.client() for host in (without, beside)]
    for request in requests:
        for at, host in enumerate((without, beside)):
            if clients[at].reader.at_eof():
                clients[at] = await host.client()
        first, second = [plain(await client.ask(request)) for client in clients]
        assert first == second, request[-500:]
    assert without.bus.taken == beside.bus.taken
    assert beside.away == 1


async def test_what_the_host_fails_at_is_a_failure_of_the_host_and_of_no_other_request(host):
    client = await host.client()
    status, _, body = await client.ask(post(event(type_="crash")))
    assert (status, json.loads(body)["code"]) == (500, "internal_error")
    assert (await client.ask(post(event())))[0] == 202


# Tokens


async def test_a_token_that_is_revoked_is_refused_at_once_in_every_process(rig):
    host = await rig(2)
    hashed = host.add("bbt_other", Role.ADMIN)
    await host.processes._changed()
    clients = [await host.client() for _ in range(4)]
    for number, client in enumerate(clients):
        assert (await client.ask(post(event(str(number)), secret="bbt_other")))[0] == 202
    assert [len(one.away) for one in host.ready] == [2, 2]
    del host.tokens.table.by_hash[hashed]
    await host.processes._changed()
    for client in clients:
        assert (await client.ask(post(event("later"), secret="bbt_other")))[0] == 401
    assert host.away == 0
    assert len(host.refusals.noted) == 4


async def test_a_token_that_is_revoked_while_a_process_starts_is_none_to_it(rig):
    host = await rig(0)
    hashed = host.add("bbt_other", Role.ADMIN)
    host.lives.append(asyncio.create_task(host.processes.live()))
    await host.until(lambda: host.processes._running)
    del host.tokens.table.by_hash[hashed]
    await host.processes._changed()
    await host.until(lambda: host.ready)
    client = await host.client()
    assert (await client.ask(post(event("1"))))[0] == 202
    assert (await client.ask(post(event("2"), secret="bbt_other")))[0] == 401
    assert host.bus.taken == ["1"]


async def test_a_process_that_does_not_go_by_other_tokens_is_killed_for_it(rig, monkeypatch):
    monkeypatch.setattr(http_processes, "IN_FORCE_SECONDS", 0.2)
    host = await rig(1)
    client = await host.client()
    assert (await client.ask(post(event())))[0] == 202
    os.kill(host.ready[0].pid, signal.SIGSTOP)
    host.tokens.table.by_hash.clear()
    await host.processes._changed()
    assert host.ready == []
    assert await client.ended()


# Life


async def test_the_death_of_one_process_cuts_its_own_connections_and_nobody_elses(rig):
    host = await rig(2)
    clients = [await host.client() for _ in range(2)]
    for client in clients:
        assert (await client.ask(post(event())))[0] == 202
    first, second = host.ready
    os.kill(first.pid, signal.SIGKILL)
    assert await clients[0].ended()
    assert (await clients[1].ask(post(event("2"))))[0] == 202
    await host.until(lambda: host.ready == [second] and host.server.connections.count == 1)
    with pytest.raises(HttpProcessEndedError, match="status -9"):
        await host.lives[0]
    os.kill(second.pid, signal.SIGKILL)
    await host.until(lambda: not host.ready)
    assert (await (await host.client()).ask(post(event("3"))))[0] == 202
    assert host.bus.taken == ["1", "2", "3"]


async def test_a_process_ends_with_the_host_that_speaks_to_it(host):
    process = host.ready[0]
    process._channel._socket.shutdown(socket.SHUT_RDWR)
    await host.until(lambda: process._process.returncode is not None)
    assert process._process.returncode == 0


async def test_a_process_has_nothing_of_the_host_but_its_way_to_it(host):
    process = host.ready[0]
    descriptors = {os.readlink(f"/proc/{process.pid}/fd/{one}") for one in os.listdir(f"/proc/{process.pid}/fd")}
    assert not [one for one in descriptors if one.endswith((".db", ".key"))]
    assert b"BUSBAR" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert SECRET.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


async def test_requests_that_are_served_are_answered_before_the_processes_end(rig):
    host = await rig(1)
    served, idle = await host.client(), await host.client()
    assert (await idle.ask(post(event("0"))))[0] == 202
    host.bus.open.clear()
    served.writer.write(post(event("1")))
    await host.until(lambda: host.bus.calls == 2)
    process = host.ready[0]
    stopping = asyncio.create_task(host.processes.stop(20.0))
    await asyncio.sleep(0)
    host.bus.open.set()
    assert (await served.answer())[0] == 202
    await stopping
    assert await served.ended()
    assert await idle.ended()
    assert process._process.returncode == 0


async def test_a_process_that_is_told_to_end_and_does_not_is_killed(rig):
    host = await rig(1)
    process = host.ready[0]
    os.kill(process.pid, signal.SIGSTOP)
    await host.processes.stop(0.1)
    assert process._process.returncode == -signal.SIGKILL


async def test_clients_that_the_host_served_meanwhile_are_served_by_the_next_process(rig):
    host = await rig(0)
    client = await host.client()
    assert (await client.ask(post(event("1"))))[0] == 202
    assert (await client.ask(GET))[0] == 200
    host.lives.append(asyncio.create_task(host.processes.live()))
    await host.until(lambda: host.ready)
    assert (await client.ask(post(event("2"))))[0] == 202
    assert host.away == 1


# Bounds


async def test_the_cap_of_an_address_counts_over_the_host_and_all_processes(rig):
    host = await rig(2, connections=8, connections_per_address=4)
    publishers = [await host.client() for _ in range(4)]
    for number, client in enumerate(publishers):
        assert (await client.ask(post(event(str(number)))))[0] == 202
    assert host.away == 4
    fifth = await host.client()
    assert (await fifth.ask(GET))[0] == 200
    assert await publishers[0].ended()
    assert host.server.connections.count == 4
    elsewhere = await host.client("127.0.0.2")
    assert (await elsewhere.ask(post(event("x"))))[0] == 202
    assert (await publishers[1].ask(post(event("y"))))[0] == 202


async def test_making_room_breaks_no_request_off(rig):
    host = await rig(1, connections=8, connections_per_address=4)
    publishers = [await host.client() for _ in range(4)]
    host.bus.open.clear()
    for number, client in enumerate(publishers):
        client.writer.write(post(event(str(number))))
    await host.until(lambda: host.away == 4)
    fifth = await host.client()
    assert (await fifth.ask(GET))[0] == 200
    host.bus.open.set()
    for client in publishers:
        assert (await client.answer())[0] == 202
    assert await publishers[0].ended()


async def test_more_than_the_host_takes_is_refused_with_when_to_come_back(rig):
    host = await rig(1)
    host.bus.open.clear()
    large = event(data="x" * (MAX_EVENT - 1000))
    clients = [await host.client() for _ in range(remote.MAX_WAITING // MAX_EVENT + 8)]
    for client in clients:
        client.writer.write(post(large))
    refused = [asyncio.create_task(client.answer()) for client in clients]
    done, _ = await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED)
    status, headers, body = done.pop().result()
    assert (status, headers["Retry-After"]) == (429, "1")
    assert json.loads(body)["code"] == "storage_busy"
    host.bus.open.set()
    answers = await asyncio.gather(*refused)
    assert [one[0] for one in answers].count(202) >= remote.MAX_WAITING // MAX_EVENT


async def test_a_process_that_does_not_read_is_given_no_more_connections(rig, monkeypatch):
    monkeypatch.setattr(http_process, "MAX_BACKLOG", 1)
    host = await rig(1)
    os.kill(host.ready[0].pid, signal.SIGSTOP)
    waiting = [await host.client() for _ in range(60)]
    for number, client in enumerate(waiting):
        client.writer.write(post(event(str(number), data="x" * 60_000)))
    await host.until(lambda: len(host.bus.taken) + host.away == 60)
    assert len(host.bus.taken) > 0
    os.kill(host.ready[0].pid, signal.SIGCONT)
    for client in waiting:
        assert (await client.answer())[0] == 202


async def test_a_body_that_does_not_come_is_cut_off_and_counted(rig):
    host = await rig(1, body_within=0.3)
    client = await host.client()
    assert (await client.ask(post(event())))[0] == 202
    client.writer.write(post(event("2"))[:-5])
    status, _, body = await client.answer()
    assert (status, json.loads(body)["code"]) == (408, "body_too_slow")
    cuts = host.server.connections.counts
    await host.until(lambda: cuts._cut["body"] == 1)


async def test_a_client_that_pipelines_without_end_is_read_no_further_than_it_is_served(rig):
    host = await rig(1)
    process = host.ready[0]
    before = resident(process)
    host.bus.open.clear()
    client = await host.client()
    client.writer.write(post(event()) * 200_000)
    await host.until(lambda: host.bus.calls == 1)
    for _ in range(20):
        await asyncio.sleep(0.02)
    assert client.writer.transport.get_write_buffer_size() > 0
    assert resident(process) - before < 8 * 2**20
    client.writer.transport.abort()
    host.bus.open.set()


def resident(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
