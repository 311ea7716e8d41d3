"""HTTP processes beside a host: what moves where, and that every answer is what it is without them."""

import asyncio
import json

import pytest
from http_process_rig import GET, MAX_EVENT, batch, event, post
from odd_values import BODIES, VALUES, with_field

from host.api.connection import MAX_MOVES
from host.identity.access import Role

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
