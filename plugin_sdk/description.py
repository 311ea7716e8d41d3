"""What a plugin's code does, as values: its subscriptions, schedules, services, routes and config model.

A plugin answers `describe()` with a `Description`; the host compares it with the manifest at install.
These are plain values that cross the wire; each checks itself when it is made.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.errors import DescriptionError

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
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
        _named("subscription", self.name)
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
        except DescriptionError as error:
            raise DescriptionError(f"subscription '{self.name}': {error}") from None


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When a firing comes due: exactly one of `cron`, `every` (seconds) and `at` (RFC 3339).

    `misfire` says what becomes of instants missed while nothing ran: one firing, or none.
    """

    name: str
    cron: str | None = None
    every: float | None = None
    at: str | None = None
    timezone: str = "UTC"
    misfire: Literal["once", "skip"] = "once"

    def __post_init__(self) -> None:
        _named("schedule", self.name)
        if sum(rule is not None for rule in (self.cron, self.every, self.at)) != 1:
            raise DescriptionError(f"schedule '{self.name}' takes exactly one of cron, every and at")
        if self.every is not None and not 1 <= self.every < float("inf"):
            raise DescriptionError(f"schedule '{self.name}': every must be at least 1 second")
        if self.misfire not in {"once", "skip"}:
            raise DescriptionError(f"schedule '{self.name}': misfire must be 'once' or 'skip', not '{self.misfire}'")


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A method of the plugin that others can call by `plugin.name`."""

    name: str
    summary: str = ""

    def __post_init__(self) -> None:
        _named("service", self.name)


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a plugin's code does that the host has to know about."""

    subscriptions: tuple[Subscription, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    services: tuple[Service, ...] = ()
    routes: bool = False
    webhooks: tuple[str, ...] = ()
    config_schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for what, items in (
            ("subscription", self.subscriptions),
            ("schedule", self.schedules),
            ("service", self.services),
        ):
            names = [item.name for item in items]
            if len(names) > MAX_ITEMS:
                raise DescriptionError(f"a plugin has at most {MAX_ITEMS} {what}s, not {len(names)}")
            for name in names:
                if names.count(name) > 1:
                    raise DescriptionError(f"two {what}s are named '{name}'")


def _named(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise DescriptionError(
            f"'{name}' is no name for a {what}: write lower-case letters, digits and _, a letter first"
        )
