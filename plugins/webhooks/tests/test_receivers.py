"""Receivers that verify with the reference implementations of Standard Webhooks: what they accept is what counts."""

import asyncio
import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
from aiohttp import web
from aiohttp.test_utils import TestServer
from npm_packages import install_npm

from plugin_sdk.testing import FakeClock
from plugin_sdk.webhooks import new_secret

NPM_PACKAGE = "standardwebhooks@1.1.1"
PAYLOADS = [{"total": 5}, {"text": "Gr\u00fc\u00dfe \U0001f600 \u2028"}, None, [], "x" * 100_000, 0.1]

RECEIVER = """
const http = require("node:http");
const { Webhook } = require("standardwebhooks");
const webhook = new Webhook(process.env.SECRET);
const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    try {
      webhook.verify(Buffer.concat(parts).toString(), request.headers);
      response.writeHead(204).end();
    } catch (error) {
      response.writeHead(400).end(String(error));
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
"""


def clock_now(*, off=0):
    """A clock that stands at the machine's own time, which receivers check against, or beside it."""
    return FakeClock(datetime.now(UTC) + timedelta(seconds=off))


@pytest.fixture
async def python_receiver():
    """A maker of receivers that verify with the reference implementation in Python; their URLs."""
    servers = []

    async def make(secret):
        webhook = standardwebhooks.Webhook(secret)

        async def answer(request):
            try:
                webhook.verify(await request.read(), dict(request.headers))
            except standardwebhooks.WebhookVerificationError as error:
                return web.Response(status=400, text=str(error))
            return web.Response(status=204)

        app = web.Application()
        app.router.add_post("/", answer)
        servers.append(TestServer(app))
        await servers[-1].start_server()
        return str(servers[-1].make_url("/"))

    yield make
    for server in servers:
        await server.close()


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """A folder with the reference implementation in JavaScript, from the registry."""
    return install_npm(tmp_path_factory.mktemp("node"), NPM_PACKAGE)


@pytest.fixture
async def node_receiver(node_modules):
    """A maker of receivers that verify with the reference implementation in JavaScript; their URLs."""
    processes = []

    async def make(secret):
        process = await asyncio.create_subprocess_exec(
            shutil.which("node"),
            "-e",
            RECEIVER,
            cwd=node_modules,
            env={"PATH": os.environ["PATH"], "SECRET": secret},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        async with asyncio.timeout(20):
            port = int(await process.stdout.readline())
        return f"http://127.0.0.1:{port}/"

    yield make
    for process in processes:
        process.stdin.close()
        await process.wait()


@pytest.fixture(params=["python", "node"])
def reference(request):
    """A maker of receivers with either reference implementation."""
    return request.getfixturevalue(f"{request.param}_receiver")


async def attempts(run, path):
    found = (await run.api("GET", f"{path}/attempts"))["data"]
    return [(one["outcome"], one["status"], one["body"]) for one in found]


@pytest.mark.parametrize("form", ["cloudevents", "standard"])
async def test_the_reference_implementation_accepts_what_is_sent(running, reference, form):
    secret = new_secret()
    async with running(clock=clock_now()) as run:
        path = await run.api.add(await reference(secret), secret=secret, format=form)
        for number, data in enumerate(PAYLOADS):
            await run.deliver(id=str(number), data=data)
        assert await attempts(run, path) == [("delivered", 204, "")] * len(PAYLOADS)


async def test_the_reference_implementation_refuses_what_another_key_signed(running, reference):
    async with running(clock=clock_now()) as run:
        path = await run.api.add(await reference(new_secret()), secret=new_secret())
        await run.deliver()
        ((outcome, status, body),) = await attempts(run, path)
        assert (outcome, status) == ("status", 400)
        assert "No matching signature" in body


async def test_the_reference_implementation_refuses_what_was_signed_at_another_time(running, reference):
    secret = new_secret()
    async with running(clock=clock_now(off=-400)) as run:
        path = await run.api.add(await reference(secret), secret=secret)
        await run.deliver()
        ((outcome, _, body),) = await attempts(run, path)
        assert outcome == "status"
        assert "too old" in body


async def test_during_a_rotation_receivers_with_the_old_and_with_the_new_key_accept(running, reference):
    old, new = new_secret(), new_secret()
    async with running(clock=clock_now()) as run:
        paths = [await run.api.add(await reference(held), secret=old) for held in (old, new)]
        for path in paths:
            await run.api("POST", f"{path}/secret/rotate", {"secret": new})
        await run.deliver()
        for path in paths:
            assert await attempts(run, path) == [("delivered", 204, "")]


async def test_a_symmetric_receiver_accepts_until_the_rotation_to_a_pair_is_over(running, reference):
    secret = new_secret()
    async with running(clock=clock_now(off=-60)) as run:
        path = await run.api.add(await reference(secret), secret=secret)
        await run.api("POST", f"{path}/secret/rotate", {"kind": "asymmetric", "oldKeyValidSeconds": 50})
        await run.deliver(id="1")
        await run.later(60)
        await run.deliver(id="2")
        assert [one[0] for one in await attempts(run, path)] == ["status", "delivered"]
