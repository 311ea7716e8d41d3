"""The aiohttp application, made from the table of endpoints, and the server that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from host.api.endpoint import Endpoint, RawHandler, served
from host.api.middlewares import edge
from host.control.access import Tokens
from host.observe.metrics import RequestCounts

KEEPALIVE_SECONDS: Final = 75.0
SHUTDOWN_SECONDS: Final = 5.0
"""How long open connections may take to end when the server stops."""


def build_app(endpoints: Sequence[Endpoint], tokens: Tokens, counts: RequestCounts) -> web.Application:
    """The application that serves the table; whatever is not in it is answered with 404 or 405."""
    # Each endpoint bounds its own body, because an event's bound is not a wheel's.
    app = web.Application(client_max_size=0)
    methods: dict[str, set[str]] = {}
    for endpoint in endpoints:
        handler = edge(counts, served(endpoint, tokens), quiet=endpoint.quiet)
        app.router.add_route(endpoint.method, endpoint.path, handler)
        methods.setdefault(endpoint.path, set()).add(endpoint.method)
    for path, allowed in methods.items():
        if "*" not in allowed:
            app.router.add_route("*", path, edge(counts, _not_allowed(allowed), quiet=False))
    app.router.add_route("*", "/{nothing:.*}", edge(counts, _not_found, quiet=False))
    return app


def _not_allowed(allowed: set[str]) -> RawHandler:
    """A handler for the methods that a path does not take."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed("", sorted(allowed))

    return refuse


async def _not_found(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


class Server:
    """Listens on one address."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=SHUTDOWN_SECONDS
        )
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
