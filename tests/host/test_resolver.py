"""Names are looked up by sockets on the loop: bounded, cancelled like any task, and no thread waits for them."""

import ast
import asyncio
import os
import threading
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web
from name_server import name_server

from host import resolver
from host.resolver import ClientResolver, NameNotResolvedError, Resolver

ROOT = Path(__file__).parents[2]
SILENT = 200


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    return request.param


def test_a_name_has_the_addresses_that_its_server_says(run):
    async def given():
        async with name_server(api__example__com=["192.0.2.7", "2001:db8::7"]) as (_, address):
            return await Resolver([address]).resolve("api.example.com", 443)

    assert sorted(run(given())) == ["192.0.2.7", "2001:db8::7"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost."])
def test_the_loopback_name_is_known_without_a_server(run, host):
    async def given():
        async with name_server() as (server, address):
            return await Resolver([address]).resolve(host, 80), server.asked

    addresses, asked = run(given())
    assert "127.0.0.1" in addresses
    assert asked == []


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_its_own_answer(run, address):
    async def given():
        async with name_server() as (server, at):
            return await Resolver([at]).resolve(address, 80), server.asked

    assert run(given()) == ([address], [])


def test_of_a_name_with_thousands_of_addresses_a_few_are_answered(run):
    async def given():
        many = [f"192.0.2.{number}" for number in range(100)]  # no more fit into what is sent without asking again
        async with name_server(many__example__com=many[:28]) as (_, address):
            return await Resolver([address]).resolve("many.example.com", 80)

    assert len(run(given())) == resolver.MAX_ADDRESSES


@pytest.mark.parametrize(
    "host",
    ["", "\0", "good.example.com\0.example.com", "a..b", "x" * 64 + ".com", "x." * 200, "\udcff.com", "a b", "[::1]"],
)
def test_what_is_no_name_is_an_error_like_any_other(run, host):
    async def given():
        async with name_server(good__example__com=["192.0.2.1"]) as (server, address):
            with pytest.raises(NameNotResolvedError):
                await Resolver([address]).resolve(host, 80)
            return server.asked

    assert run(given()) == []


def test_a_name_that_has_no_address_and_a_server_that_is_not_there_are_said(run):
    async def given():
        async with name_server(empty__example__com=[]) as (_, address):
            with pytest.raises(NameNotResolvedError):
                await Resolver([address]).resolve("empty.example.com", 80)
        with pytest.raises(NameNotResolvedError):  # it has gone: the machine says that nobody listens
            await Resolver([address]).resolve("empty.example.com", 80)

    run(given())


def test_a_silent_server_costs_a_look_up_its_time_and_no_more(run, monkeypatch):
    monkeypatch.setattr(resolver, "RESOLVE_SECONDS", 0.05)

    async def given():
        async with name_server() as (_, address):
            with pytest.raises(NameNotResolvedError, match=r"no answer within 0.05 s"):
                await Resolver([address]).resolve("silent.example.com", 80)

    run(given())


def test_a_known_name_is_answered_while_hundreds_of_silent_ones_wait_and_none_holds_a_thread(run):
    async def given():
        async with name_server(api__example__com=["192.0.2.7"]) as (server, address):
            names = Resolver([address])
            assert await names.resolve("api.example.com", 443)  # whatever is started once is started now
            threads, descriptors = threading.active_count(), _open()
            waiting = [asyncio.create_task(names.resolve(f"n{number}.silent.example", 443)) for number in range(SILENT)]
            await server.heard(SILENT + 1)
            assert await names.resolve("api.example.com", 443) == ["192.0.2.7"]
            assert not any(task.done() for task in waiting)
            assert threading.active_count() == threads
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert all(task.cancelled() for task in waiting)
            async with asyncio.timeout(10):  # what they held is freed beside the loop
                while _open() > descriptors:
                    await asyncio.sleep(0.01)

    run(given())


def _open():
    return len(os.listdir("/proc/self/fd"))


async def test_a_client_of_the_hosts_own_connects_to_what_the_server_says():
    async def answer(request):
        return web.Response(text=request.host)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    async with name_server(index__example__com=["127.0.0.1"]) as (_, address):
        connector = aiohttp.TCPConnector(resolver=ClientResolver(Resolver([address])))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://index.example.com:{port}/") as response,
        ):
            assert await response.text() == f"index.example.com:{port}"
    await runner.cleanup()


async def test_a_client_of_the_hosts_own_is_told_of_a_name_without_an_address(monkeypatch):
    monkeypatch.setattr(resolver, "RESOLVE_SECONDS", 0.05)
    async with name_server() as (_, address):
        connector = aiohttp.TCPConnector(resolver=ClientResolver(Resolver([address])))
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("http://silent.example.com/")


async def test_the_look_ups_of_one_client_are_bounded(monkeypatch):
    monkeypatch.setattr(resolver, "MAX_AT_ONCE", 2)
    async with name_server() as (server, address):
        one = ClientResolver(Resolver([address]))
        waiting = [asyncio.create_task(one.resolve(f"n{number}.silent.example", 80)) for number in range(5)]
        await server.heard(2)
        assert one._turns.locked()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert set(server.asked) == {"n0.silent.example", "n1.silent.example"}


def test_nothing_in_the_hosts_process_looks_names_up_in_another_way():
    sources = [
        path for path in (ROOT / "host").rglob("*.py") if "cli" not in path.parts
    ]  # a command ends with its user
    for path in sources:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func).rpartition(".")[2]
            given = {keyword.arg for keyword in call.keywords}
            assert name not in {"gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"}, path
            # The operator's own address to listen on is looked up once, before anything is served.
            assert name != "getaddrinfo" or path.name in {"resolver.py", "listener.py"}, path
            assert name != "ClientSession" or "connector" in given, path
            assert name != "TCPConnector" or "resolver" in given, path
