"""What plugin authors import: `Plugin` and its decorators, `Event`, `Context`, and the three verdicts.

This package is the whole contract between a plugin and a host; it never imports the host, and a plugin
imports nothing else of Busbar.
"""

from plugin_sdk.calls import Delivery, Firing, Health, Request, Response
from plugin_sdk.context import Context
from plugin_sdk.description import Description, Schedule, Service, Subscription
from plugin_sdk.errors import (
    ArgumentsError,
    DeadLetter,
    Drop,
    HostError,
    InvalidEventError,
    PermissionDeniedError,
    PluginError,
    Retry,
)
from plugin_sdk.events import Event, new_event
from plugin_sdk.hookspecs import hookimpl
from plugin_sdk.plugin import Plugin, at, cron, every, on_event, service
from plugin_sdk.webhooks.endpoint import Webhook

__all__ = [
    "ArgumentsError",
    "Context",
    "DeadLetter",
    "Delivery",
    "Description",
    "Drop",
    "Event",
    "Firing",
    "Health",
    "HostError",
    "InvalidEventError",
    "PermissionDeniedError",
    "Plugin",
    "PluginError",
    "Request",
    "Response",
    "Retry",
    "Schedule",
    "Service",
    "Subscription",
    "Webhook",
    "at",
    "cron",
    "every",
    "hookimpl",
    "new_event",
    "on_event",
    "service",
]
