"""An endpoint on loopback that answers as it is told, and the plugin against it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from webhooks import Webhooks

from plugin_sdk import Request
from plugin_sdk.testing import FakeClock, PluginHarness

TOKEN = "a token of sixteen characters"


@dataclass
class Receiver:
    """An endpoint. It answers with the statuses in `answers`, one after the other, and then with `then`."""

    answers: list[int] = field(default_factory=list)
    then: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            body = await request.read()
            self.received.append(({name.lower(): value for name, value in request.headers.items()}, body))
            status = self.answers.pop(0) if self.answers else self.then
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.at_once -= 1
        return web.Response(status=status, headers=self.headers, body=self.body)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.received]


class Api:
    """The plugin's routes, with the token."""

    def __init__(self, harness: PluginHarness) -> None:
        self._harness = harness

    async def __call__(self, method, path, body=None, *, status=None, token=TOKEN, **query):
        headers = {} if token is None else {"x-webhooks-token": token}
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        answer = await self._harness.request(Request(method, path, query, headers, raw))
        found = json.loads(answer.body) if answer.body else None
        if status is None:
            assert answer.status < 300, found
        else:
            assert answer.status == status, found
        return found

    async def add(self, url, **fields):
        """A new endpoint; its path."""
        made = await self("POST", "/endpoints", {"url": url, **fields})
        return f"/endpoints/{made['id']}"


@dataclass
class Running:
    """The plugin while it runs."""

    harness: PluginHarness
    plugin: Webhooks
    clock: FakeClock
    api: Api

    async def deliver(self, type_="order.placed", **options):
        """Deliver an event and send all that can be sent."""
        delivered = await self.harness.deliver(type_, **{"data": {"total": 5}, **options})
        await self.plugin.pump.settle()
        return delivered

    async def later(self, seconds):
        """Let time pass, and send all that can be sent then."""
        self.clock.advance(seconds)
        await self.plugin.pump.settle()

    async def next_attempt(self, path):
        """Let time pass until the next message of an endpoint is due; the seconds that took."""
        stats = await self.api("GET", f"{path}/stats")
        due = datetime.fromisoformat(stats["nextAttemptAt"])
        seconds = (due - self.clock.now()).total_seconds() + 0.001
        if seconds <= 0:
            seconds = 60.0  # it is due, and waits behind the breaker
        await self.later(seconds)
        return seconds

    @property
    def said(self):
        """The types of the events emitted."""
        return [event.type for event in self.harness.emitted]


@pytest.fixture(autouse=True)
def _straight(monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def receivers():
    """A maker of endpoints."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**options):
            receiver = Receiver(**options)
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", receiver.answer)
            server = await stack.enter_async_context(TestServer(app))
            receiver.url = str(server.make_url("/hook"))
            return receiver

        yield make


@pytest.fixture
async def receiver(receivers):
    return await receivers()


@pytest.fixture
def running():
    """A maker of running plugins; hand the `kv` of one to the next to restart it."""

    @contextlib.asynccontextmanager
    async def make(*, clock=None, kv=None, **config):
        clock = clock or FakeClock()
        plugin = Webhooks(clock=clock, rng=random.Random(1))
        harness = PluginHarness(
            plugin,
            config={"allow_private": True, **config},
            secrets={"admin_token": TOKEN},
            kv=kv,
            name="webhooks",
        )
        async with harness:
            yield Running(harness, plugin, clock, Api(harness))

    return make
