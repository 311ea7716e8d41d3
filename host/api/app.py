"""From a request to its endpoint, and the server that listens.

The table of endpoints is all there is to route, so aiohttp's low-level server carries it: its `Application`
would find routes, freeze, and signal a second time, at half the price of a whole published event.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from host.api.bodies import BODIES, Bodies
from host.api.connection import Deadlines
from host.api.connections import Caps, Connections, Handler
from host.api.endpoint import ANY, ANY_METHODS, PARTS, Endpoint, RawHandler, served
from host.api.listener import Listener
from host.api.middlewares import edge
from host.api.refusals import Refusals
from host.identity.access import Tokens
from host.observe.descriptors import Descriptors
from host.observe.metrics import RequestCounts
from host.settings import Server as ServerSettings

SHUTDOWN_SECONDS: Final = 5.0
"""How long open connections may take to end when the server stops."""
_PART: Final = re.compile(r"\{(\w+)(?::([^{}]+))?\}")


class Routes:
    """Hands each request to its endpoint; whatever is not in the table is answered with 404 or 405."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        tokens: Tokens,
        counts: RequestCounts,
        refusals: Refusals | None = None,
    ) -> None:
        self._fixed: dict[tuple[str, str], RawHandler] = {}
        self._patterns: list[tuple[re.Pattern[str], str, RawHandler]] = []
        self._methods: dict[str, set[str]] = {}
        for endpoint in endpoints:
            handler = edge(
                counts, served(endpoint, tokens), quiet=endpoint.quiet, route=endpoint.path, refusals=refusals
            )
            if "{" in endpoint.path:
                self._patterns.append((_pattern(endpoint.path), endpoint.method, handler))
            else:
                self._fixed[endpoint.method, endpoint.path] = handler
                self._methods.setdefault(endpoint.path, set()).add(endpoint.method)
        self._bodies = Bodies()
        self._not_found = edge(counts, _not_found, quiet=False)
        self._not_allowed = edge(counts, _not_allowed, quiet=False)

    def __call__(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        """Serve one request."""
        request[BODIES] = self._bodies
        handler = self._fixed.get((request.method, request.path))
        return (handler or self._find(request))(request)

    def _find(self, request: web.BaseRequest) -> RawHandler:
        path = request.rel_url.raw_path
        allowed = set(self._methods.get(path, ()))
        for pattern, method, handler in self._patterns:
            # A path that has a row of its own is no name in another one's.
            match = None if path in self._methods else pattern.fullmatch(path)
            if match is None:
                continue
            if method == request.method or (method == ANY and request.method in ANY_METHODS):
                request[PARTS] = {name: unquote(value) for name, value in match.groupdict().items()}
                return handler
            allowed.update(ANY_METHODS if method == ANY else (method,))
        if not allowed:
            return self._not_found
        request[PARTS] = {"allowed": ", ".join(sorted(allowed))}
        return self._not_allowed


class Server:
    """Listens, and serves what comes.

    Args:
        routes: Serves requests.
        settings: Where it listens, how many connections it takes, and how long they may keep it waiting.
        descriptors: How many connections there is room for.
    """

    def __init__(self, routes: Handler, settings: ServerSettings, descriptors: Descriptors) -> None:
        caps = Caps(descriptors.connections, settings.connections_per_address, descriptors.ceiling)
        deadlines = Deadlines(
            head=settings.head_within, body=settings.body_within, idle=settings.idle_for, answer=settings.answer_within
        )
        self.connections = Connections(routes, caps, deadlines)
        self._listener = Listener(self.connections, settings.host, settings.port)
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken, or not this machine's.
        """
        self.connections.start()
        self.address = await self._listener.start()

    def listen_no_more(self) -> None:
        """Take no more connections."""
        self._listener.stop()

    async def stop(self) -> None:
        """Listen no more, and let requests that are being served end."""
        self.listen_no_more()
        await self.connections.stop(SHUTDOWN_SECONDS)


def _pattern(path: str) -> re.Pattern[str]:
    """A path with `{name}` or `{name:regex}` parts as a pattern over the raw path."""
    text, at = "", 0
    for part in _PART.finditer(path):
        text += re.escape(path[at : part.start()]) + f"(?P<{part[1]}>{part[2] or '[^/]+'})"
        at = part.end()
    return re.compile(text + re.escape(path[at:]))


async def _not_found(_request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPNotFound


async def _not_allowed(request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPMethodNotAllowed(request.method, request[PARTS]["allowed"].split(", "))
