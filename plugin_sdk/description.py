"""What a plugin's code does, as values: its subscriptions, schedules, services, routes and config model.

A plugin answers `describe()` with a `Description`; the host compares it with the manifest at install.
These are plain values that cross the wire; each checks itself when it is made.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.errors import DescriptionError
from plugin_sdk.filters import compile_filters
from plugin_sdk.names import check_name
from plugin_sdk.schedule import Schedule as Schedule  # noqa: PLC0414 - authors import it from here, too
from plugin_sdk.webhooks.endpoint import Webhook

TYPE_GLOB: Final = re.compile(r"[A-Za-z0-9_*-]+(\.[A-Za-z0-9_*-]+)*")
MAX_ITEMS: Final = 256
"""How many subscriptions, schedules or services one plugin may describe."""


def type_pattern(glob: str) -> str:
    """A type pattern as a regular expression; `*` stands for any characters.

    Each piece between two stars is taken where it comes first, for good (an atomic group, as in `fnmatch.translate`):
    trying other places could not help, and would take exponentially long.
    """
    first, *others = map(re.escape, glob.split("*"))
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{piece})" for piece in middle) + f".*{last}"


class Subscription(DeliveryPolicy, frozen=True, kw_only=True):
    """Which events one hook of the plugin gets, and, in the fields of `DeliveryPolicy`, how.

    `types` are event types, `*` standing for any run of characters: `milestone.*`. `filters` narrow them down: each
    is an object with one of the dialects of `plugin_sdk.filters`, and all of them must hold.
    """

    name: str
    types: tuple[str, ...]
    filters: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_name("subscription", self.name)
        if not self.types:
            raise DescriptionError(f"subscription '{self.name}' must name at least one event type")
        for glob in self.types:
            if not TYPE_GLOB.fullmatch(glob):
                raise DescriptionError(
                    f"subscription '{self.name}': '{glob}' is no event type; "
                    "write dotted words, with * for any characters, such as 'milestone.*'"
                )
        try:
            DeliveryPolicy.__post_init__(self)
            compile_filters(self.filters)
        except DescriptionError as error:
            raise DescriptionError(f"subscription '{self.name}': {error}") from None


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A method of the plugin that others can call by `plugin.name`."""

    name: str
    summary: str = ""

    def __post_init__(self) -> None:
        check_name("service", self.name)


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a plugin's code does that the host has to know about."""

    subscriptions: tuple[Subscription, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    services: tuple[Service, ...] = ()
    routes: bool = False
    webhooks: tuple[Webhook, ...] = ()
    config_schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for what, items in (
            ("subscription", self.subscriptions),
            ("schedule", self.schedules),
            ("service", self.services),
            ("webhook", self.webhooks),
        ):
            names = [item.name for item in items]
            if len(names) > MAX_ITEMS:
                raise DescriptionError(f"a plugin has at most {MAX_ITEMS} {what}s, not {len(names)}")
            for name in names:
                if names.count(name) > 1:
                    raise DescriptionError(f"two {what}s are named '{name}'")
