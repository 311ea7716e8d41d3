"""The names that an inline plugin connects to are looked up as those of workers: no thread of the host's waits."""

import asyncio

import pytest
from aiohttp import web
from name_server import name_server

from host.resolver import Resolver
from host.runtime.inline import InlineRuntime
from plugin_sdk.calls import ServiceCall
from plugin_sdk.testing import MemoryHost

PLUGIN = '''
from plugin_sdk import Plugin, service

class Caller(Plugin):
    @service
    async def fetch(self, url, context):
        """Ask for a page."""
        async with context.http.get(url) as answer:
            return await answer.text()
'''


@pytest.fixture
async def page(aiohttp_server):
    async def answer(_request):
        return web.Response(text="a page")

    app = web.Application()
    app.router.add_get("/", answer)
    return await aiohttp_server(app)


async def test_an_inline_plugins_client_asks_the_hosts_resolver(launch, page, monkeypatch):
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    made = launch("inline_caller:Caller")
    (made.folder / "inline_caller.py").write_text(PLUGIN)
    async with name_server(api__example__com=["127.0.0.1"]) as (server, address):
        one = InlineRuntime(made, MemoryHost({}), lambda _lines, _dropped: None, resolver=Resolver([address]))
        await one.start()
        waiting = [
            asyncio.create_task(one.call(ServiceCall("fetch", {"url": f"http://n{number}.silent.example/"})))
            for number in range(30)
        ]
        await server.heard(8)
        url = f"http://api.example.com:{page.port}/"
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert await one.call(ServiceCall("fetch", {"url": url})) == "a page"
        await one.stop(1, 1)
    assert all(task.cancelled() for task in waiting)
