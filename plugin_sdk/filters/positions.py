"""Where the parser stands in a list of filters, what is left of its bounds, and the checks that every part shares.

Filters come from plugins and over HTTP, so nothing here trusts their shape, their size or their depth.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

from plugin_sdk.filters.errors import FilterError

MAX_DEPTH: Final = 32
"""How deep filters and the objects of a pattern may nest, in all: what bounds every walk over an event."""
MAX_NODES: Final = 1000
"""Filters, attributes, fields and values in one list of filters: what bounds the work for one event."""
MAX_TEXT: Final = 4096
"""Characters of one name or value."""
MAX_CONDITIONS: Final = 4 * MAX_NODES
"""Conditions that the patterns of one list of filters may come to, with what `$or` multiplies out (see `matching`)."""

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_$-]{1,64}")
_LONGEST_SHOWN: Final = 64


@dataclass(slots=True)
class Spent:
    """How much of the bounds one list of filters has used."""

    nodes: int = 0
    conditions: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """One place in a list of filters."""

    path: str
    depth: int = 0
    spent: Spent = field(default_factory=Spent)

    def at(self, name: str) -> Position:
        """The place of the entry `name` of the object here."""
        return replace(self, path=self.path + step(name))

    def item(self, index: int) -> Position:
        """The place of an element of the array here."""
        return replace(self, path=f"{self.path}[{index}]")

    def refuse(self, why: str) -> NoReturn:
        """Refuse what stands here.

        Raises:
            FilterError: always.
        """
        raise FilterError(f"{self.path}: {why}", self.path)

    def count(self) -> None:
        """Spend one node.

        Raises:
            FilterError: it was one too many.
        """
        self.spent.nodes += 1
        if self.spent.nodes > MAX_NODES:
            self.refuse(f"a list of filters has at most {MAX_NODES} filters, attributes, fields and values in all")

    def count_conditions(self, more: int, spent: Spent) -> None:
        """Spend conditions that the fields here come to.

        Raises:
            FilterError: there are more than the bound.
        """
        spent.conditions += more
        if spent.conditions > MAX_CONDITIONS:
            self.refuse(
                "$or names fields that stand beside it, too, which multiplies out to more than "
                f"{MAX_CONDITIONS} conditions; write several patterns under the filter 'any' instead"
            )

    def deeper(self) -> Position:
        """The same place, one level of nesting further down.

        Raises:
            FilterError: that is too deep.
        """
        if self.depth >= MAX_DEPTH:
            self.refuse(f"filters and their patterns nest at most {MAX_DEPTH} levels deep")
        return replace(self, depth=self.depth + 1)

    def text(self, value: Any, what: str, *, may_be_empty: bool = False) -> str:
        """`value` as a string; `what` names it in the refusal.

        Raises:
            FilterError: it is no string, empty, or too long.
        """
        if not isinstance(value, str):
            self.refuse(f"{what} must be a string, not {kind_of(value)}")
        if not value and not may_be_empty:
            self.refuse(f"{what} must not be empty")
        if len(value) > MAX_TEXT:
            self.refuse(f"{what} must be at most {MAX_TEXT} characters, not {len(value)}")
        return value

    def items(self, value: Any, what: str, at_least: int = 1) -> Iterator[tuple[Position, Any]]:
        """The elements of the array `value`, each with its place.

        Raises:
            FilterError: it is no array, or has fewer elements than it must.
        """
        if not isinstance(value, (list, tuple)) or len(value) < at_least:
            count = "a non-empty array" if at_least == 1 else f"an array of at least {at_least}"
            self.refuse(f"must be {count} of {what}, not {kind_of(value)}")
        return ((self.item(index), item) for index, item in enumerate(value))

    def entries(self, value: Any, what: str) -> Iterator[tuple[Position, str, Any]]:
        """The entries of the object `value`, each with its place and its name; every one spends a node.

        Raises:
            FilterError: it is no object, it is empty, a name is no good, or there are too many in all.
        """
        if not isinstance(value, Mapping) or not value:
            self.refuse(f"must be a non-empty object of {what}, not {kind_of(value)}")
        for name, item in value.items():
            place = self.at(self.text(name, "a name"))
            place.count()
            yield place, name, item

    def only_entry(self, value: Any, what: str) -> tuple[Position, str, Any]:
        """The one entry of an object that has exactly one key.

        Raises:
            FilterError: it is no object, or has another number of keys.
        """
        if not isinstance(value, Mapping) or len(value) != 1:
            keys = f" with {len(value)} keys" if isinstance(value, Mapping) and value else ""
            self.refuse(f"must be an object with exactly one key, {what}, not {kind_of(value)}{keys}")
        ((name, item),) = value.items()
        return self.at(self.text(name, what)), name, item


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends a refusal of an unknown name: what was probably meant, and what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:_LONGEST_SHOWN], names, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}There are: {', '.join(names)}"


def kind_of(value: Any) -> str:
    """What kind of JSON value it is, with its article, for a sentence."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a string" if value else "an empty string"
        case list() | tuple():
            return "an array" if value else "an empty array"
        case Mapping():
            return "an object" if value else "an empty object"
        case _:
            return f"a {type(value).__name__}"


def step(name: str) -> str:
    """A name as a step of a path: with a dot where it is plain, in brackets where it is not."""
    return f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{quoted(name)}]"


def quoted(text: str) -> str:
    """A name as JSON shows it, cut where it is long."""
    return json.dumps(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…", ensure_ascii=False)
