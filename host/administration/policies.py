"""Delivery policies as an administrator sees and overrides them, without touching the plugin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from host.administration.errors import PolicyRefusedError, SubscriptionNotFoundError
from host.observe.audit import Audit
from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.routing.subscriptions import overridden
from plugin_sdk.calls import SCHEDULES
from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.errors import DescriptionError


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """A subscription with the policy it is delivered under, and the fields that an administrator has set."""

    name: str
    types: tuple[str, ...]
    filters: tuple[Mapping[str, Any], ...]
    policy: DeliveryPolicy
    overridden: Mapping[str, Any]


class Policies:
    """Shows and overrides the delivery policies of plugins.

    Args:
        registry: Where they are kept.
        wait_until_caught_up: Returns once a plugin has what was changed, or took too long.
        audit: Where every change is written down.
    """

    def __init__(
        self, registry: Registry, wait_until_caught_up: Callable[[str], Awaitable[None]], audit: Audit
    ) -> None:
        self._registry = registry
        self._wait_until_caught_up = wait_until_caught_up
        self._audit = audit

    def all(self, plugin: str) -> list[EffectivePolicy]:
        """Every subscription of a plugin, its firings' among them where it has schedules.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        record = self._registry.get(plugin)
        return [_effective(record, name) for name in _own(record)]

    def get(self, plugin: str, name: str) -> EffectivePolicy:
        """One subscription.

        Raises:
            PluginNotFoundError, SubscriptionNotFoundError: there is none of that name.
        """
        record = self._registry.get(plugin)
        _known(record, name)
        return _effective(record, name)

    async def override(self, plugin: str, name: str, fields: Mapping[str, Any], *, actor: str) -> EffectivePolicy:
        """Replace what is overridden of a policy; fields that are not given are the plugin's own again.

        Deliveries in flight end under the old policy. Errors as in `get`, and:

        Raises:
            PolicyRefusedError: a field is unknown, of the wrong type or out of range.
        """
        record = self._registry.get(plugin)
        try:
            overridden(_known(record, name), fields)
        except (DescriptionError, msgspec.ValidationError) as error:
            raise PolicyRefusedError(f"this is no policy for {plugin}/{name}: {error}") from None
        policies = {key: value for key, value in record.policies.items() if key != name}
        if fields:
            policies[name] = dict(fields)
        if policies != record.policies:
            record = await self._registry.change(plugin, policies=policies)
            await self._wait_until_caught_up(plugin)
            await self._audit.record(
                actor=actor,
                action="plugin.policy",
                target=f"{plugin}/{name}",
                detail={"policy": dict(fields)},
                outcome="done",
            )
        return _effective(record, name)


def _own(record: PluginRecord) -> dict[str, DeliveryPolicy]:
    """The plugin's own policies, by the name of the subscription."""
    own: dict[str, DeliveryPolicy] = {one.name: one for one in record.description.subscriptions}
    if record.description.schedules:
        own[SCHEDULES] = DeliveryPolicy()
    return own


def _known(record: PluginRecord, name: str) -> DeliveryPolicy:
    own = _own(record)
    if name not in own:
        raise SubscriptionNotFoundError(record.id, name, own)
    return own[name]


def _effective(record: PluginRecord, name: str) -> EffectivePolicy:
    fields = record.policies.get(name, {})
    found = next((one for one in record.description.subscriptions if one.name == name), None)
    return EffectivePolicy(
        name=name,
        types=found.types if found else (),
        filters=found.filters if found else (),
        policy=overridden(_own(record)[name], fields),
        overridden=fields,
    )
