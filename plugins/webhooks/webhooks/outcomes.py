"""What becomes of a message and its endpoint after an attempt, and who is told."""

from __future__ import annotations

import random
from http import HTTPStatus
from typing import Any

import msgspec

from plugin_sdk import Context, HostError
from plugin_sdk.clock import Clock
from webhooks.backlog import Backlogs, Fate
from webhooks.endpoints import Directory, Endpoint
from webhooks.messages import Attempt, Message
from webhooks.schedule import FAILING_AT, HOUR, failing_since, gives_up, wait_after


class Outcomes:
    """Records attempts. What happens is durable, and said as an event, before the next attempt can come."""

    def __init__(
        self, context: Context, directory: Directory, backlogs: Backlogs, *, clock: Clock, rng: random.Random
    ) -> None:
        self._context = context
        self._directory = directory
        self._backlogs = backlogs
        self._clock = clock
        self._rng = rng

    async def record(self, message: Message, attempt: Attempt) -> None:
        """Deliver, postpone or give up a message after an attempt.

        Raises:
            HostError, FullError: the host does not keep it now; the attempt counts as not made.
        """
        endpoint = self._directory.find(message.endpoint)
        if endpoint is None:
            return  # deleted while the request was under way
        message = message.tried(attempt)
        if attempt.outcome == "delivered":
            await self._delivered(endpoint, message)
        elif attempt.status == HTTPStatus.GONE:
            await self._disable(endpoint, message, "gone", "it answered 410 Gone")
            await self._finish(message, "failed")
        else:
            await self._failed(endpoint, message, attempt)

    async def _delivered(self, endpoint: Endpoint, message: Message) -> None:
        if message.failures >= FAILING_AT:
            await self._tell("recovered", message)
        await self._finish(message, "delivered")
        if endpoint.failing_since is not None:
            await self._directory.change(endpoint.id, failing_since=None)

    async def _failed(self, endpoint: Endpoint, message: Message, attempt: Attempt) -> None:
        now = self._clock.now().timestamp()
        since = failing_since(endpoint.failing_since, attempt.at)
        if since != endpoint.failing_since:
            await self._directory.change(endpoint.id, failing_since=since)
        throttled = attempt.outcome == "timeout" or attempt.status == HTTPStatus.TOO_MANY_REQUESTS
        wait = wait_after(message.failures, throttled=throttled, retry_after=attempt.retry_after, rng=self._rng)
        if wait is None:
            await self._tell("exhausted", message)
            if endpoint.enabled and gives_up(since, now):
                hours = (now - since) / HOUR
                await self._disable(endpoint, message, "failing", f"it has failed for {hours:.0f} hours")
            await self._finish(message, "failed")
            return
        if message.failures == FAILING_AT:
            await self._tell("failing", message)
        await self._backlogs.postpone(msgspec.structs.replace(message, due=now + wait))

    async def _disable(self, endpoint: Endpoint, message: Message, word: str, reason: str) -> None:
        """Send nothing more to an endpoint until a person enables it again."""
        await self._directory.change(endpoint.id, enabled=False, disabled_because=reason)
        self._context.log.warning("endpoint %s is disabled: %s", endpoint.id, reason)
        data = {"endpointId": endpoint.id, "url": endpoint.url, "code": word, "reason": reason, "messageId": message.id}
        await self._emit("webhooks.endpoint.disabled", endpoint.id, data, f"disabled/{message.id}/{_round(message)}")

    async def _finish(self, message: Message, outcome: Fate) -> None:
        kept = self._context.config.kept
        await self._backlogs.finish(message, outcome, self._clock.now().timestamp(), kept=kept)

    async def _tell(self, what: str, message: Message) -> None:
        """Tell of a message; of one that itself tells of webhooks nothing is told, or news would breed news."""
        if message.about_webhooks:
            return
        last = message.attempts[-1]
        data = {
            "endpointId": message.endpoint,
            "messageId": message.id,
            "eventType": message.type,
            "failures": message.failures,
            "lastOutcome": last.outcome,
            "lastStatus": last.status,
        }
        await self._emit(f"webhooks.message.{what}", message.id, data, f"{what}/{message.id}/{_round(message)}")

    async def _emit(self, type_: str, subject: str, data: dict[str, Any], event_id: str) -> None:
        try:
            await self._context.emit(type_, subject=subject, data=data, id=event_id)
        except HostError as error:  # the news is lost, the message is not
            self._context.log.warning("%s about %s is not emitted: %s", type_, subject, error)


def _round(message: Message) -> int:
    """The instant of the first attempt that is kept, which tells apart what is said after a recovery."""
    return int(message.attempts[0].at * 1000) if message.attempts else 0
