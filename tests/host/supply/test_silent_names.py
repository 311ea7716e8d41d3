"""A name server that is silent holds up neither an index nor a wheel beyond its time, nor the end of the host."""

import asyncio

import dependency_wheels as wheels
import pytest
from index_servers import indexes
from name_server import name_server
from packaging.requirements import Requirement
from yarl import URL

from host import resolver
from host.errors import BusbarError
from host.resolver import Resolver
from host.supply.dependencies.fetch import DependencySources, fetch_wheels
from host.supply.index.index_source import IndexSource

GREETER = wheels.dependency()


@pytest.fixture
def source():
    return IndexSource("main", URL("http://index.silent.example/simple/"))


@pytest.fixture
def locked():
    return GREETER.locked(url="http://files.silent.example/greeter-1.0-py3-none-any.whl")


async def test_an_index_whose_name_nobody_knows_is_unavailable(monkeypatch, source):
    monkeypatch.setattr(resolver, "RESOLVE_SECONDS", 0.05)
    async with name_server() as (_, address), indexes(source, resolver=Resolver([address])) as one:
        with pytest.raises(BusbarError) as refused:
            await one.find(Requirement("acme-demo"))
    assert refused.value.word == "index_unavailable"


async def test_a_wheel_whose_origins_name_nobody_knows_cannot_be_had(monkeypatch, locked, tmp_path):
    monkeypatch.setattr(resolver, "RESOLVE_SECONDS", 0.05)
    async with name_server() as (_, address):
        where = DependencySources(origins=("http://files.silent.example/",), resolver=Resolver([address]))
        with pytest.raises(BusbarError) as refused:
            await fetch_wheels([locked], tmp_path, where)
    assert refused.value.word == "release_dependency_unavailable"


async def test_what_waits_for_a_silent_name_is_given_up_with_its_task(source, locked, tmp_path):
    async with name_server() as (server, address):
        names = Resolver([address])
        where = DependencySources(origins=("http://files.silent.example/",), resolver=names)
        async with indexes(source, resolver=names) as one:
            waiting = [
                asyncio.create_task(one.find(Requirement("acme-demo"))),
                asyncio.create_task(fetch_wheels([locked], tmp_path, where)),
            ]
            await server.heard(2)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    assert set(server.asked) == {"index.silent.example", "files.silent.example"}
