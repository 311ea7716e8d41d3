"""The egress broker, over real sockets on loopback: what goes through a plugin's door, and what does not."""

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web

from host.runtime import egress
from host.runtime.egress import EgressBroker
from plugin_sdk.egress import http_session
from plugin_sdk.errors import PermissionDeniedError


@pytest.fixture
async def server():
    """An outside service: it says which path and which headers came."""

    async def answer(request):
        return web.json_response(
            {"path": request.path_qs, "headers": dict(request.headers), "body": await request.text()}
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield site._server.sockets[0].getsockname()[1]
    await runner.cleanup()


@pytest.fixture
async def door():
    """A maker of doors; each answers the address at which a plugin finds it, and its counts."""
    opened = []

    def make(*granted, resolve=None):
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        broker = EgressBroker(resolve)
        opened.append(broker.open("example", granted, listener))
        return address, broker.counts("example")

    yield make
    for one in opened:
        one.close()
        await asyncio.wait([one._task])


async def exchange(address, data):
    """Send bytes to a door; all that it answers until it hangs up."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    async with asyncio.timeout(5):
        answer = await reader.read(65536)
    writer.close()
    return answer


async def test_a_granted_host_is_reached_by_a_tunnel(door, server):
    address, counts = door(f"localhost:{server}")
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"CONNECT localhost:{server} HTTP/1.1\r\nHost: localhost:{server}\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
    writer.write(b"GET /through HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'"/through"' in await reader.read()
    writer.close()
    assert (counts.connections, counts.sent > 0, counts.received > 0) == (1, True, True)


async def test_a_plain_request_goes_on_as_the_other_side_expects_it(door, server, monkeypatch):
    address, counts = door(f"localhost:{server}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{address[1]}")
    async with http_session() as session:
        for number in range(2):
            async with session.post(f"http://localhost:{server}/a?b={number}", data="body") as answer:
                found = await answer.json()
            assert (found["path"], found["body"]) == (f"/a?b={number}", "body")
            assert found["headers"]["Host"] == f"localhost:{server}"
            assert not any(name.lower().startswith("proxy-") for name in found["headers"])
    assert counts.connections == 2


async def test_what_is_not_reached_is_a_clients_error_and_no_answer(door, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    address, _ = door(f"localhost:{port}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{address[1]}")
    async with http_session() as session:
        with pytest.raises(aiohttp.ClientConnectionError, match=f"localhost:{port} is not reached"):
            await session.get(f"http://localhost:{port}/")
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://localhost:{port}/")


async def test_what_is_not_granted_is_refused_with_the_missing_grant(door, server, monkeypatch):
    address, counts = door("api.example.com:443")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{address[1]}")
    async with http_session() as session:
        with pytest.raises(PermissionDeniedError, match=f"localhost:{server} is not granted: list it under"):
            await session.get(f"http://localhost:{server}/")
        with pytest.raises(PermissionDeniedError, match="other.example.com:443 is not granted"):
            await session.get("https://other.example.com/")
    answer = await exchange(address, b"CONNECT other.example.com:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\nX-Busbar-Code: network_not_granted\r\n")
    assert counts.refused == {"network_not_granted": 3}


async def test_a_name_that_leads_inside_is_refused_whatever_else_it_leads_to(door, server):
    asked = []

    async def resolve(host, port):
        asked.append(host)
        return ["127.0.0.1", "169.254.169.254", "10.0.0.1"]

    address, counts = door(f"rebound.example.com:{server}", resolve=resolve)
    answer = await exchange(address, f"CONNECT rebound.example.com:{server} HTTP/1.1\r\n\r\n".encode())
    assert b"403 Forbidden" in answer
    assert b"address_refused" in answer
    assert asked == ["rebound.example.com"]
    assert counts.refused == {"address_refused": 1}


async def test_a_wildcard_grants_public_addresses_and_nothing_inside(door, server):
    async def resolve(host, port):
        return ["127.0.0.1"]

    address, counts = door("*:*", resolve=resolve)
    for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"):
        answer = await exchange(address, f"CONNECT {host}:{server} HTTP/1.1\r\n\r\n".encode())
        assert b"network_not_granted" in answer
    for host in ("rebound.example.com", "2130706433", "0x7f.1"):
        answer = await exchange(address, f"CONNECT {host}:{server} HTTP/1.1\r\n\r\n".encode())
        assert b"address_refused" in answer
    assert counts.refused == {"network_not_granted": 5, "address_refused": 3}


async def test_a_name_without_an_address_and_a_port_without_a_listener_are_said(door):
    async def nowhere(_host, _port):
        raise OSError("no such name")

    address, _ = door("gone.example.com:443", resolve=nowhere)
    answer = await exchange(address, b"CONNECT gone.example.com:443 HTTP/1.1\r\n\r\n")
    assert b"502 Bad Gateway" in answer
    assert b"name_not_resolved" in answer
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    address, _ = door(f"127.0.0.1:{port}")
    answer = await exchange(address, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
    assert b"connect_failed" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"CONNECT example.com HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:0 HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:99999 HTTP/1.1\r\n\r\n",
        b"CONNECT user@example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT exa mple.com:443 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET https://example.com/ HTTP/1.1\r\n\r\n",
        b"GET http://user:pass@example.com/ HTTP/1.1\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"GET ftp://example.com/ HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\nHost: x\n\r\n\r\n",
        b"CONNECT example.com:443 HTTP/2.0\r\n\r\n",
        b"X" * 20_000,
    ],
)
async def test_what_is_no_request_to_a_proxy_is_a_400(door, data):
    address, counts = door("example.com:443")
    answer = await exchange(address, data)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\nX-Busbar-Code: malformed\r\n")
    assert counts.refused == {"malformed": 1}


async def test_connections_are_bounded(door, server, monkeypatch):
    monkeypatch.setattr(egress, "MAX_CONNECTIONS", 2)
    address, counts = door(f"localhost:{server}")
    held = [await asyncio.open_connection(*address) for _ in range(2)]
    async with asyncio.timeout(5):
        while counts.open < 2:
            await asyncio.sleep(0.01)
    answer = await exchange(address, f"CONNECT localhost:{server} HTTP/1.1\r\n\r\n".encode())
    assert b"503 Service Unavailable" in answer
    assert counts.refused == {"too_many_connections": 1}
    for _, writer in held:
        writer.close()
    async with asyncio.timeout(5):
        while counts.open:
            await asyncio.sleep(0.01)
    assert b"200" in await exchange(
        address, f"GET http://localhost:{server}/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )


async def test_a_head_that_does_not_come_ends_the_connection(door, monkeypatch):
    monkeypatch.setattr(egress, "HEAD_SECONDS", 0.05)
    address, counts = door("example.com:443")
    assert await exchange(address, b"CONNECT exa") == b""
    assert counts.open == 0


async def test_closing_the_door_ends_what_goes_through_it(door, server):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    one = EgressBroker().open("example", (f"localhost:{server}",), listener)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"CONNECT localhost:{server} HTTP/1.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    one.close()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_a_session_without_a_broker_goes_straight(server, monkeypatch):
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    async with http_session() as session, session.get(f"http://127.0.0.1:{server}/") as answer:
        assert answer.status == 200
        assert isinstance(session, aiohttp.ClientSession)
