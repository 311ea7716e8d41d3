"""A plugin's subscriptions as the router keeps them: identity, filter, delivery policy, and the call they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from host.routing.event_log import StoredEvent
from host.routing.filters import Filter
from plugin_sdk.calls import SCHEDULES, Flight
from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.description import Description
from plugin_sdk.filters import CompiledFilters, compile_filters

FIRING_TYPE: Final = "busbar.schedule.due"
"""Type of the event that one firing of a schedule is."""

REPLAY_PRIORITY: Final = -1000
"""What a replay's priority is lowered by: whatever is live goes first."""

_REPLAY: Final = "#"


def firing_source(plugin: str) -> str:
    """Source of the firings of one plugin's schedules."""
    return f"/busbar/schedules/{plugin}"


def home(subscription: str) -> str:
    """The id of the subscription that a subscription or a replay of it belongs to."""
    return subscription.partition(_REPLAY)[0]


def replay_of(subscription: str) -> int | None:
    """The replay that a subscription id stands for; None for one that is live."""
    number = subscription.partition(_REPLAY)[2]
    return int(number) if number else None


@dataclass(frozen=True, slots=True)
class BoundSubscription:
    """One subscription of one installed plugin. `timeout` is in seconds.

    `timeouts` has those of single schedules, by name. `replay` is the id of the replay that it serves, and `also`
    what that replay narrows the events down to.
    """

    plugin: str
    name: str
    filter: Filter
    policy: DeliveryPolicy
    timeout: float
    timeouts: Mapping[str, float] = field(default_factory=dict)
    replay: int | None = None
    also: CompiledFilters | None = None

    @property
    def id(self) -> str:
        """What the cursor, the retries and the attempts of this subscription are kept under."""
        home_id = f"{self.plugin}/{self.name}"
        return home_id if self.replay is None else f"{home_id}{_REPLAY}{self.replay}"

    @property
    def hook(self) -> str:
        """The hook that a delivery enters."""
        return "on_schedule" if self.name == SCHEDULES else "on_event"

    def timeout_of(self, stored: StoredEvent) -> float:
        """Seconds that the delivery of an event may take."""
        return self.timeouts.get(str(stored.event.subject), self.timeout) if self.timeouts else self.timeout

    @property
    def priority(self) -> int:
        """Who goes first where subscriptions of the plugin wait for each other: the higher."""
        return self.policy.priority if self.replay is None else self.policy.priority + REPLAY_PRIORITY

    def takes(self, stored: StoredEvent) -> bool:
        """Whether the subscription gets this event of the log."""
        return self.filter.admits(stored) and (self.also is None or self.also.matches(stored.event))

    def replayed(self, replay: int, also: CompiledFilters) -> BoundSubscription:
        """The subscription that delivers a replay: its own cursor, and behind whatever is live.

        It holds the log, whatever the policy says: a replay is asked for by a person who waits for all of it.
        """
        policy = msgspec.structs.replace(self.policy, behind="hold", max_age=None)
        return replace(self, policy=policy, replay=replay, also=also)

    def flight(self, *, unfiltered: bool) -> Flight:
        """What deliveries of this subscription have in common on their way to the plugin."""
        return Flight(self.id, self.name, self.replay is not None, unfiltered)


def bind(
    plugin: str,
    description: Description,
    timeout: float,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[BoundSubscription, ...]:
    """The subscriptions of a plugin, its schedules' among them.

    `timeout` serves where a subscription names none; `overrides` are fields of policies that an administrator set, by
    the name of the subscription.
    """
    changed = overrides or {}
    bound = []
    for subscription in description.subscriptions:
        policy = overridden(subscription, changed.get(subscription.name, {}))
        narrowed = compile_filters(subscription.filters) if subscription.filters else None
        bound.append(
            BoundSubscription(
                plugin=plugin,
                name=subscription.name,
                filter=Filter(subscription.types, filters=narrowed),
                policy=policy,
                timeout=policy.timeout or timeout,
            )
        )
    if description.schedules:
        firings = Filter((FIRING_TYPE,), firing_source(plugin))
        policy = overridden(DeliveryPolicy(), changed.get(SCHEDULES, {}))
        timeouts = {one.name: one.max_runtime for one in description.schedules if one.max_runtime is not None}
        bound.append(BoundSubscription(plugin, SCHEDULES, firings, policy, policy.timeout or timeout, timeouts))
    return tuple(bound)


def overridden(policy: DeliveryPolicy, fields: Mapping[str, Any]) -> DeliveryPolicy:
    """A policy with some of its fields replaced.

    Raises:
        DescriptionError: a value is out of range.
        msgspec.ValidationError: a value has the wrong type, or there is no such field.
    """
    names = DeliveryPolicy.__struct_fields__
    own = {name: getattr(policy, name) for name in names}
    return msgspec.convert({**own, **fields}, _Strict)


class _Strict(DeliveryPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy in which no unknown field is overlooked."""
