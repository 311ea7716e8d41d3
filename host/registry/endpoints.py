"""The webhooks that plugins have: those that they describe, as far as they are granted."""

from __future__ import annotations

from host.ingress.inbound_webhooks import Endpoint
from host.registry.registry import Registry


def endpoint_of(registry: Registry, plugin: str, name: str) -> Endpoint | None:
    """A plugin's webhook with its secrets, or None where it has none of that name, or may not."""
    record = registry.find(plugin)
    if record is None or name not in record.granted.webhooks:
        return None
    webhook = next((one for one in record.description.webhooks if one.name == name), None)
    return None if webhook is None else Endpoint(webhook, record.granted_secrets)
