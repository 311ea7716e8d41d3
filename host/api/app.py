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
from host.api.endpoint import PARTS, Endpoint, RawHandler, served
from host.api.middlewares import edge
from host.control.access import Tokens
from host.observe.metrics import RequestCounts

KEEPALIVE_SECONDS: Final = 75.0
SHUTDOWN_SECONDS: Final = 5.0
"""How long open connections may take to end when the server stops."""
ANY: Final = "*"
_PART: Final = re.compile(r"\{(\w+)(?::([^{}]+))?\}")


class Routes:
    """Hands each request to its endpoint; whatever is not in the table is answered with 404 or 405."""

    def __init__(self, endpoints: Sequence[Endpoint], tokens: Tokens, counts: RequestCounts) -> None:
        self._fixed: dict[tuple[str, str], RawHandler] = {}
        self._patterns: list[tuple[re.Pattern[str], str, RawHandler]] = []
        self._methods: dict[str, set[str]] = {}
        for endpoint in endpoints:
            handler = edge(counts, served(endpoint, tokens), quiet=endpoint.quiet)
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
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if method in {ANY, request.method}:
                request[PARTS] = {name: unquote(value) for name, value in match.groupdict().items()}
                return handler
            allowed.add(method)
        if not allowed:
            return self._not_found
        request[PARTS] = {"allowed": ", ".join(sorted(allowed))}
        return self._not_allowed


class Server:
    """Listens on one address."""

    def __init__(self, routes: Routes, host: str, port: int) -> None:
        server = web.Server(routes, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS)
        self._runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
        self._host = host
        self._port = port
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken, or not this machine's.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Listen no more, and let requests that are being served end."""
        await self._runner.cleanup()


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
