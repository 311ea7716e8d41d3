"""Webhooks: sends events of the log to HTTP endpoints, signed as Standard Webhooks, with retries over three days."""

from __future__ import annotations

import random

from plugin_sdk import Context, DeadLetter, Event, Health, Plugin, Request, Response, Retry, on_event
from plugin_sdk.clock import Clock, SystemClock
from webhooks.administration import Administration
from webhooks.backlog import Backlogs, FullError
from webhooks.config import Config
from webhooks.endpoints import Directory
from webhooks.messages import MAX_EVENT_BYTES, new_message
from webhooks.outcomes import Outcomes
from webhooks.pump import Pump
from webhooks.routes import Routes
from webhooks.sending import Sender

__all__ = ["Config", "Webhooks"]


class Webhooks(Plugin):
    """A delivery of an event becomes a durable message for each endpoint that takes it; the pump sends them.

    Args:
        clock: The time that everything here goes by.
        rng: For jitter.
    """

    Config = Config

    def __init__(self, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        super().__init__()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._directory: Directory
        self._backlogs: Backlogs
        self._routes: Routes
        self.pump: Pump

    async def start(self, context: Context) -> None:
        """Read what is kept, and begin to send."""
        self._directory, self._backlogs = Directory(context.kv), Backlogs(context.kv)
        await self._directory.load()
        await self._backlogs.load(endpoint.id for endpoint in self._directory)
        sender = Sender(context, self._clock)
        outcomes = Outcomes(context, self._directory, self._backlogs, clock=self._clock, rng=self._rng)
        self.pump = Pump(context, self._directory, self._backlogs, sender, outcomes, clock=self._clock, rng=self._rng)
        administration = Administration(context, self._directory, self._backlogs, self.pump, sender, self._clock)
        self._routes = administration.routes()
        self.pump.start()

    async def stop(self, context: Context) -> None:
        """Let what is under way end; the rest is sent after the next start."""
        await self.pump.stop()

    @on_event("*", attempts=100)
    async def messages(self, event: Event, context: Context) -> None:
        """Keep a message for each endpoint that takes the event. A second delivery of it adds nothing."""
        endpoints = self._directory.taking(event)
        if endpoints and (size := len(event.to_json())) > MAX_EVENT_BYTES:
            raise DeadLetter(f"a webhook carries at most {MAX_EVENT_BYTES} bytes of an event, not {size}")
        full = ""
        for endpoint in endpoints:
            message = new_message(event, endpoint.id, self._clock.now().timestamp())
            try:
                await self._backlogs.add(message, bound=context.config.pending)
            except FullError as error:
                full = str(error)
        self.pump.wake()
        if full:  # the others have theirs; the log keeps the event for this one
            raise Retry(reason=full)

    async def handle_request(self, request: Request, context: Context) -> Response:
        """Serve the management of endpoints."""
        return await self._routes.serve(request, context)

    async def check_health(self, context: Context) -> Health:
        """Fail where nothing is sent; warn of endpoints that were disabled because they fail."""
        if not self.pump.running:
            return Health("fail", "the pump has ended: restart the plugin")
        given_up = [one for one in self._directory if not one.enabled and one.failing_since is not None]
        if given_up:
            return Health("warn", f"{len(given_up)} endpoints are disabled because they fail, {given_up[0].id} first")
        return Health()
