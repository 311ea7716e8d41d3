"""HTTP under a plugin's own routes: `/p/{plugin}/…`, handed to its `handle_request` hook."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from host.administration.administration import Administration
from host.api.body import read_bounded
from host.api.endpoint import PARTS, Endpoint, header_text
from host.api.errors import NotFoundError
from host.api.plugin_answers import rendered
from host.port.errors import CallFailedError
from host.routing.caller_guard import party
from host.runtime.errors import HookAnswerError, HookFailedError
from plugin_sdk.calls import Request, Response
from plugin_sdk.errors import HostError, Verdict

MAX_BODY: Final = 2**20
HIDDEN: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers of a request that are the host's to read, not a plugin's."""


class PluginRoutes:
    """The handler."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "*",
                "/p/{plugin}/{path:.*}",
                "pluginRoute",
                "A route of a plugin; the plugin decides who may.",
                None,
                raw=self.serve,
                produces="*/*",
            ),
        )

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Hand a request to its plugin, and the plugin's answer back."""
        plugin = request[PARTS]["plugin"]
        hosted = self._administration.running(plugin)
        if not hosted.record.description.routes or not hosted.record.granted.routes:
            raise NotFoundError(f"{plugin} serves no routes")
        found = Request(
            method=request.method,
            path="/" + request[PARTS]["path"],
            query=dict(request.query),
            headers={
                name.lower(): header_text(value)
                for name, value in request.headers.items()
                if name.lower() not in HIDDEN
            },
            body=await read_bounded(request, MAX_BODY),
        )
        try:
            answer: Response = await hosted.serve(found, "handle_request", caller=party(request.remote or ""))
        except (HookFailedError, HostError, Verdict) as error:
            # Whoever asks may be a stranger: he hears that it failed, and the plugin's log has how.
            invalid = isinstance(error, HookAnswerError | Verdict)
            raise CallFailedError(
                f"{plugin} failed at this request: {type(error).__name__}",
                code=HookAnswerError.code if invalid else None,
            ) from None
        return rendered(plugin, answer)
