"""Inbound webhooks over HTTP: `/hooks/{plugin}/{name}`, for senders that have a signature instead of a token."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from host.api.body import read_bounded
from host.api.endpoint import PARTS, TRACE, Endpoint, header_text
from host.api.envelope import success
from host.api.plugin_answers import rendered
from host.ingress.inbound_webhooks import InboundWebhooks, Received
from plugin_sdk.calls import Response

PATH: Final = "/hooks/{plugin}/{name}"


class Hooks:
    """The handler."""

    def __init__(self, inbound: InboundWebhooks, max_body: int) -> None:
        self._inbound = inbound
        self._max_body = max_body

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "*",
                PATH,
                "receiveWebhook",
                "A webhook of a plugin: 202 once it is durable; the signature decides who may.",
                None,
                raw=self.receive,
                consumes="*/*",
                status=202,
            ),
        )

    async def receive(self, request: web.BaseRequest) -> web.StreamResponse:
        """Read the body within its bound, before anything parses it, and have it verified."""
        body = await read_bounded(request, self._max_body)
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), []).append(header_text(value))
        received = Received(request.method, dict(request.query), headers, body, request.remote or "")
        parts = request[PARTS]
        taken = await self._inbound.receive(parts["plugin"], parts["name"], received)
        if isinstance(taken, Response):
            return rendered(parts["plugin"], taken)
        data: dict[str, Any] = {"sequence": taken.sequence, "duplicate": taken.duplicate}
        return success(data, request[TRACE], status=202)
