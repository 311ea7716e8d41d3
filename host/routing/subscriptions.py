"""A plugin's subscriptions as the router keeps them: identity, filter, retry policy, and the call they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from host.routing.event_log import StoredEvent
from host.routing.filters import Filter
from plugin_sdk.calls import Delivery, EventCall, Firing, FiringCall, HookCall
from plugin_sdk.description import Description
from plugin_sdk.resilience import RetryPolicy

FIRING_TYPE: Final = "busbar.schedule.due"
"""Type of the event that one firing of a schedule is."""

SCHEDULES: Final = "@schedules"
"""Name of the one subscription through which all firings of a plugin arrive; no author can choose it."""


def firing_source(plugin: str) -> str:
    """Source of the firings of one plugin's schedules."""
    return f"/busbar/schedules/{plugin}"


@dataclass(frozen=True, slots=True)
class BoundSubscription:
    """One subscription of one installed plugin. `timeout` is in seconds."""

    plugin: str
    name: str
    filter: Filter
    retry: RetryPolicy
    timeout: float

    @property
    def id(self) -> str:
        """What the cursor, the retries and the dead letters of this subscription are kept under."""
        return f"{self.plugin}/{self.name}"

    @property
    def hook(self) -> str:
        """The hook that a delivery enters."""
        return "on_schedule" if self.name == SCHEDULES else "on_event"

    def call_for(self, stored: StoredEvent, attempt: int) -> tuple[Delivery, HookCall]:
        """The delivery of `stored`, and the hook call that hands it over."""
        event = stored.event
        extensions = event.extensions
        delivery = Delivery(
            f"{self.id}/{stored.sequence}",
            self.name,
            attempt,
            stored.sequence,
            str(extensions.get("traceparent", "")),
            event.id,
            str(extensions.get("correlationid", "")),
            event.hops if extensions else 0,
        )
        if self.name != SCHEDULES:
            return delivery, EventCall(stored.event, delivery)
        due = stored.event.data["due"]
        return delivery, FiringCall(Firing(str(stored.event.subject), due, stored.event.id), delivery)


def bind(plugin: str, description: Description, timeout: float) -> tuple[BoundSubscription, ...]:
    """The subscriptions of a plugin, its schedules' among them; `timeout` serves where one names none."""
    bound = [
        BoundSubscription(
            plugin=plugin,
            name=subscription.name,
            filter=Filter(subscription.types),
            retry=RetryPolicy(
                attempts=subscription.attempts,
                first=subscription.first_retry,
                longest=subscription.longest_retry,
            ),
            timeout=subscription.timeout or timeout,
        )
        for subscription in description.subscriptions
    ]
    if description.schedules:
        firings = Filter((FIRING_TYPE,), firing_source(plugin))
        bound.append(BoundSubscription(plugin, SCHEDULES, firings, RetryPolicy(), timeout))
    return tuple(bound)
