"""How a pattern meets an event: fields compiled to closures over the event's objects and arrays.

The rule about arrays, by Event Ruler (README, "JSON Array Matching"), which is what EventBridge runs: arrays of arrays
are flattened, an object in an array stands where the array stands, and no two fields may match in different objects of
one array. In other words, a pattern matches where for each array one object can be chosen so that all fields hold.

A tree of conditions that names every field once finds that choice by itself: an array fits where one of its objects
fits everything below. Fields that stand both beside a `$or` and inside it (or inside two of them) break that, for their
conditions meet in one object although they stand apart in the pattern. There, and only there, the `$or` is multiplied
out, and the conditions on one field are merged; the parser bounds how many alternatives that may make.

`exists: false` looks at the whole event, not at the chosen objects: which of those fields are missing is found once
for each event, and handed down as the bits of `absent`.

The walk goes as deep as the pattern, which is bounded, never as deep as the event.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from plugin_sdk.events import Event
from plugin_sdk.filters.attributes import MISSING, value_of
from plugin_sdk.filters.operators import KINDS, Values
from plugin_sdk.filters.positions import Position, Spent
from plugin_sdk.filters.predicates import Predicate

Names = tuple[str, ...]
Match = Callable[[Any, int], bool]
"""Whether an object (the event itself at the top) fits, given the bits of the fields that the event lacks."""

_NOTHING: Final[dict[str, Any]] = {}
_KINDS: Final = frozenset(KINDS)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A field with its values: `names` lead to it from the event."""

    position: Position
    names: Names
    values: Values


@dataclass(frozen=True, slots=True)
class Fields:
    """What one object of an event must have: all `leaves`, all `objects`, and one alternative of each of `choices`."""

    position: Position
    names: Names
    leaves: Mapping[str, tuple[Leaf, ...]] = field(default_factory=dict)
    objects: Mapping[str, Fields] = field(default_factory=dict)
    choices: tuple[tuple[Fields, ...], ...] = ()


class Absences:
    """The fields that a pattern allows to be missing: each has a bit."""

    def __init__(self, fields: Fields) -> None:
        self._bits = {names: 1 << at for at, names in enumerate(dict.fromkeys(_may_be_missing(fields)))}

    def bit(self, leaf: Leaf) -> int:
        """The bit of a field; 0 where the pattern wants it to be there."""
        return self._bits.get(leaf.names, 0) if leaf.values.absence else 0

    def of(self, event: Event) -> int:
        """The bits of those fields that have no value anywhere in the event."""
        absent = 0
        for names, bit in self._bits.items():
            if not any(type(item) in _KINDS for item in found_at(event, names)):
                absent |= bit
        return absent

    def __bool__(self) -> bool:
        return bool(self._bits)


def found_at(event: Event, names: Names) -> list[Any]:
    """Every value and object that `names` lead to, in whatever elements of arrays."""
    level = list(_flattened(value_of(names[0])(event)))
    for name in names[1:]:
        level = [found for item in level if isinstance(item, dict) and name in item for found in _flattened(item[name])]
    return level


def compiled(fields: Fields, absences: Absences, spent: Spent) -> Match:
    """What tells whether an object fits `fields`.

    Raises:
        FilterError: with what was `spent` before, its `$or` multiply out to more than the bound.
    """
    return _any_match([_all_match(one, absences, spent) for one in _settled(fields, spent)])


def fits(match: Match, found: list[Any], absent: int) -> bool:
    """Whether one object among what was found fits; where there is none, whether the fields may all be missing."""
    return any(match(item, absent) for item in found if isinstance(item, dict)) or match(_NOTHING, absent)


def _may_be_missing(fields: Fields) -> Iterator[Names]:
    for leaves in fields.leaves.values():
        yield from (leaf.names for leaf in leaves if leaf.values.absence)
    for below in fields.objects.values():
        yield from _may_be_missing(below)
    for choice in fields.choices:
        for alternative in choice:
            yield from _may_be_missing(alternative)


# Multiplying out: until no field with fields of its own stands in two places.


def _settled(fields: Fields, spent: Spent) -> list[Fields]:
    settled: list[Fields] = []
    waiting = [fields]
    while waiting:
        one = waiting.pop()
        fields.position.count_conditions(1 + len(one.leaves) + len(one.objects), spent)
        clash = _clash(one)
        if clash is None:
            settled.append(one)
            continue
        rest = replace(one, choices=one.choices[:clash] + one.choices[clash + 1 :])
        waiting += [_merged(rest, alternative) for alternative in one.choices[clash]]
    return settled


def _clash(fields: Fields) -> int | None:
    """The first choice that shares a field with its surroundings."""
    seen = set(fields.objects)
    shared: set[str] = set()
    named = [_objects_in(choice) for choice in fields.choices]
    for names in named:
        shared |= seen & names
        seen |= names
    return next((at for at, names in enumerate(named) if names & shared), None)


def _objects_in(choice: tuple[Fields, ...]) -> set[str]:
    found: set[str] = set()
    for alternative in choice:
        found.update(alternative.objects)
        for nested in alternative.choices:
            found |= _objects_in(nested)
    return found


def _merged(one: Fields, other: Fields) -> Fields:
    leaves = dict(one.leaves)
    for name, more in other.leaves.items():
        leaves[name] = leaves.get(name, ()) + more
    objects = dict(one.objects)
    for name, below in other.objects.items():
        objects[name] = _merged(objects[name], below) if name in objects else below
    return replace(one, leaves=leaves, objects=objects, choices=one.choices + other.choices)


# Closures: each is called for every event, so none makes anything that it can do without.


def _all_match(fields: Fields, absences: Absences, spent: Spent) -> Match:
    matches: list[Match] = []
    for name, leaves in fields.leaves.items():
        matches += [_leaf_match(_read(name, fields.names), leaf, absences.bit(leaf)) for leaf in leaves]
    for name, below in fields.objects.items():
        matches.append(_object_match(_read(name, fields.names), compiled(below, absences, spent)))
    matches += [_any_match([compiled(one, absences, spent) for one in choice]) for choice in fields.choices]
    if len(matches) == 1:
        return matches[0]
    several = tuple(matches)

    def match(value: Any, absent: int) -> bool:
        for one in several:  # noqa: SIM110 - all() would make a generator for every event
            if not one(value, absent):
                return False
        return True

    return match


def _any_match(matches: list[Match]) -> Match:
    if len(matches) == 1:
        return matches[0]
    several = tuple(matches)

    def match(value: Any, absent: int) -> bool:
        for one in several:  # noqa: SIM110 - as above
            if one(value, absent):
                return True
        return False

    return match


def _read(name: str, below: Names) -> Callable[[Any], Any]:
    """What reads a field of an object; at the top, an attribute of the event or its data."""
    return operator.methodcaller("get", name, MISSING) if below else value_of(name)


def _leaf_match(read: Callable[[Any], Any], leaf: Leaf, bit: int) -> Match:
    tests = leaf.values.tests

    def fits_one(value: Any) -> bool:
        test: Predicate | None = tests.get(type(value))
        return test is not None and test(value)

    def match(value: Any, absent: int) -> bool:
        found = read(value)
        test = tests.get(type(found))
        if test is not None:
            return test(found)
        if isinstance(found, list) and _some(found, fits_one):
            return True
        return absent & bit != 0

    return match


def _object_match(read: Callable[[Any], Any], below: Match) -> Match:
    def match(value: Any, absent: int) -> bool:
        found = read(value)
        if isinstance(found, dict):
            return below(found, absent)
        if isinstance(found, list) and _some(found, lambda item: isinstance(item, dict) and below(item, absent)):
            return True
        # Nothing there has fields: what is left is that all of them may be missing.
        return absent != 0 and below(_NOTHING, absent)

    return match


def _some(items: list[Any], fits_one: Predicate) -> bool:
    """Whether one of the elements fits, or one in the arrays among them; without recursion, however deep they nest."""
    waiting = [items]
    while waiting:
        for item in waiting.pop():
            if isinstance(item, list):
                waiting.append(item)
            elif fits_one(item):
                return True
    return False


def _flattened(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += reversed(item)
        elif item is not MISSING:
            yield item
