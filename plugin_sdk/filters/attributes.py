"""An event's attributes and data, as filters see them.

Names: CloudEvents 1.0.2, `spec.md`, section "Attribute Naming Convention". Texts: the same, section "Type System",
where every type has a canonical string: booleans are `true` and `false`, integers decimal, a time its RFC 3339 text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from plugin_sdk.events import SPEC_VERSION, Event
from plugin_sdk.filters.positions import Position

DATA: Final = "data"


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What stands where an event has no value; no JSON value is equal to it."""

_NAME: Final = re.compile(r"[a-z0-9]+")
_OF_THE_MODEL: Final = frozenset({"id", "source", "type", "subject", "time", "datacontenttype", "dataschema"})
MAX_KIND: Final = 1024
"""Characters of a media type that is looked at: what is remembered of senders must be short."""
_JSON_TYPE: Final = re.compile(r"[^/;]+/(?:[^;\s]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)


def check_name(name: str, position: Position) -> None:
    """Refuse what cannot be the name of an attribute.

    Raises:
        FilterError: it has other characters than CloudEvents allows.
    """
    if not _NAME.fullmatch(name):
        position.refuse("is no name of an attribute: those have lower-case letters and digits only")


def text_of(name: str) -> Callable[[Event], str | None]:
    """What reads the canonical string of the attribute `name`; None where an event lacks it."""
    if name == "specversion":
        return lambda _event: SPEC_VERSION
    if name in _OF_THE_MODEL:
        return attrgetter(name)

    def extension(event: Event) -> str | None:
        value = event.extensions.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    return extension


def value_of(name: str) -> Callable[[Event], Any]:
    """What reads the attribute `name`, or `data`, as its JSON value; `MISSING` where an event lacks it."""
    if name == DATA:
        return _data
    if name == "specversion":
        return lambda _event: SPEC_VERSION
    if name in _OF_THE_MODEL:
        read = attrgetter(name)

        def attribute(event: Event) -> Any:
            value = read(event)
            return MISSING if value is None else value

        return attribute
    return lambda event: event.extensions.get(name, MISSING)


def _data(event: Event) -> Any:
    """The JSON payload.

    An event without one holds the model's own mark there, which is no JSON value and fits nothing, like `MISSING`.
    """
    kind = event.datacontenttype
    # Absent means JSON: CloudEvents 1.0.2, formats/json-format.md, section "Handling of data".
    if kind is None or kind == "application/json" or (len(kind) <= MAX_KIND and _is_json(kind)):
        return event.data
    return MISSING


@lru_cache(maxsize=256)  # producers use few media types, and each says its own in every event
def _is_json(media_type: str) -> bool:
    return _JSON_TYPE.fullmatch(media_type) is not None
