"""`Bus.publish`: the one way into the event log, for HTTP, webhooks, plugins and the host itself."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

from host.errors import BusbarError
from host.routing.errors import EventRefusedError, PublishRateError
from host.routing.event_log import Appended, EventLog
from host.routing.log_budget import LogBudget
from host.routing.log_shares import weight
from host.routing.plugin_shares import PluginShares
from plugin_sdk.events import Event, new_event
from plugin_sdk.resilience import TokenBucket

RESERVED: Final = "busbar."
"""Types that only the host publishes; a plugin or client that could forge them could fire schedules."""


class Bus:
    """Checks size, type and rate of what is published, and answers once it is durable.

    Args:
        log: Where events go.
        max_body: Bytes that one event may have as JSON.
        budget: Says whether there is room; None where the log has no bound.
        rate: Limits how many events a second are taken in; None for no limit.
        shares: Bound what one plugin has in the log; None where nothing does.

    Attributes:
        max_body: Bytes that one event may have as JSON.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        max_body: int,
        budget: LogBudget | None = None,
        rate: TokenBucket | None = None,
        shares: PluginShares | None = None,
    ) -> None:
        self._log = log
        self.max_body = max_body
        self._budget = budget
        self._shares = shares
        self._rate = rate
        self._open = True
        self.published = 0
        self.duplicates = 0

    def close(self) -> None:
        """Take no more events: the host is stopping."""
        self._open = False

    async def publish(self, event: Event) -> Appended:
        """Append an event from outside the host; durable when this returns.

        Raises:
            EventRefusedError: the host is stopping, the event is too large, or its type is the host's own.
            EventConflictError: the log has another event under the same source and id.
            PublishRateError: more events come than a second may have.
            LogFullError: the log has no room.
        """
        self._admit(event)
        return await self._append(event)

    async def publish_for(self, plugin: str, event: Event) -> Appended:
        """Append an event that a plugin emits or that comes in for it; as `publish`, within the plugin's share.

        Raises:
            LogShareFullError: what the plugin has in the log fills its share, and may not go yet.
        """
        if self._shares is None:
            return await self.publish(event)
        self._admit(event)
        body = self._encoded(event)
        async with self._shares.room(plugin, weight(event, body)):
            return self._counted(await self._hand_over(event, body))

    async def publish_many(self, events: Sequence[Event]) -> list[Appended | BusbarError]:
        """Append several events, each taken or refused by itself; what was taken is durable when this returns."""
        waiting = [self._begin(event) for event in events]
        answers: list[Appended | BusbarError] = []
        for one in waiting:
            try:
                answers.append(one if isinstance(one, BusbarError) else self._counted(await one))
            except BusbarError as error:
                answers.append(error)
        return answers

    def _begin(self, event: Event) -> Awaitable[Appended] | BusbarError:
        try:
            self._admit(event)
            return self._submit(event)
        except BusbarError as error:
            return error

    def _admit(self, event: Event) -> None:
        if event.type.startswith(RESERVED):
            raise EventRefusedError.reserved(event.type)
        if self._rate is not None and not self._rate.take():
            raise PublishRateError(
                f"this host takes {self._rate.rate:g} events a second: slow down, or have events.rate raised",
                retry_after=max(1.0, 1 / self._rate.rate),
            )

    async def announce(self, event_type: str, *, subject: str, data: object) -> Appended:
        """Append an event of the host's own, such as a breaker that opened; taken even where the log is full."""
        event = new_event(RESERVED + event_type, source="/busbar/host", subject=subject, data=data)
        return await self._append(event, own=True)

    async def _append(self, event: Event, *, own: bool = False) -> Appended:
        return self._counted(await self._submit(event, own=own))

    def _submit(self, event: Event, *, own: bool = False) -> Awaitable[Appended]:
        return self._hand_over(event, self._encoded(event), own=own)

    def _encoded(self, event: Event) -> bytes:
        if not self._open:
            raise EventRefusedError.stopping()
        body = event.to_json()
        self.check_size(len(body))
        return body

    def check_size(self, size: int) -> None:
        """Refuse an event that has more bytes than it may, where that is known before it is parsed.

        Raises:
            EventRefusedError: it has.
        """
        if size > self.max_body:
            raise EventRefusedError.too_large(size, self.max_body)

    def _hand_over(self, event: Event, body: bytes, *, own: bool = False) -> Awaitable[Appended]:
        if self._budget is not None and not own:
            self._budget.admit(len(body))
        return self._log.append(event, body)

    def _counted(self, appended: Appended) -> Appended:
        if appended.duplicate:
            self.duplicates += 1
        else:
            self.published += 1
        return appended
