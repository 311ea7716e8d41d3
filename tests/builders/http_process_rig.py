"""Real HTTP processes beside a host whose bus is the test's, and clients of both."""

import asyncio
import hashlib
import json
import socket

from aiohttp import web

from host.api.app import Routes, Server
from host.api.bodies import KNOWN_BYTES
from host.api.endpoint import Endpoint
from host.api.processes.http_processes import HttpProcesses
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
