"""The dialect `pattern`: the content filter of Amazon EventBridge over an event's attributes and its JSON data.

Source: Amazon EventBridge User Guide, "Creating event patterns", "Comparison operators for use in event patterns" and
"Arrays in event patterns"; where it leaves a choice, what Event Ruler (which EventBridge runs) does, but for what is
said here.

A pattern is an object over `{attribute..., "data": ...}`. `data` is there where an event has JSON data: not where it
has none, nor where its data is binary or `datacontenttype` is no JSON type.

* Every field of the pattern must hold; a field holds where one of its values does. Values always stand in a non-empty
  array. Which operators there are: see `operators`.
* Where the event has an array, one of its elements must fit; no two fields may match in different objects of one
  array: see `matching`.
* `exists` looks at values only: an object or an empty array is none. `exists: false` holds where the field has no
  value in any element of the event at all; where its parent is missing, so is the field. (Event Ruler looks only at
  the elements that the other fields matched in.)
* `$or` is an array of at least two objects, one of which must hold beside the other fields. None of their keys may be
  the name of an operator. `$or` is never the name of a field.
* A dot in the name of a field is a dot: `{"a.b": …}` is not `{"a": {"b": …}}`.
* Attributes are no objects, and a name that no attribute can have is refused: both could never match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from plugin_sdk.events import Event
from plugin_sdk.filters.attributes import DATA, check_name
from plugin_sdk.filters.explanations import FailedClause, mismatch
from plugin_sdk.filters.matching import (
    Absences,
    Fields,
    Leaf,
    Names,
    compiled,
    fits,
    found_at,
)
from plugin_sdk.filters.operators import KINDS, OPERATORS, parse_values
from plugin_sdk.filters.positions import Position, Spent, kind_of, step
from plugin_sdk.filters.type_globs import Globs, narrowest, union

OR: Final = "$or"


class Pattern:
    """One pattern, compiled.

    Raises:
        FilterError: it is not allowed.
    """

    __slots__ = ("_absences", "_fields", "matches", "types")

    matches: Callable[[Event], bool]
    """Whether an event matches; never raises."""

    def __init__(self, value: Any, position: Position) -> None:
        self._fields = _fields(value, position, ())
        self._absences = absences = Absences(self._fields)
        self.types = _types(self._fields)
        match = compiled(self._fields, absences, position.spent)
        if absences:
            self.matches = lambda event: match(event, absences.of(event))
        else:
            self.matches = lambda event: match(event, 0)

    def explain(self, event: Event) -> list[FailedClause]:
        """The fields that keep the event from matching; empty where it matches."""
        return self._failing(self._fields, event, self._absences.of(event))

    def _failing(self, fields: Fields, event: Event, absent: int) -> list[FailedClause]:
        failed: list[FailedClause] = []
        for leaves in fields.leaves.values():
            failed += [clause for leaf in leaves if (clause := self._missed(leaf, event, absent)) is not None]
        for below in fields.objects.values():
            failed += self._failing(below, event, absent)
        for choice in fields.choices:
            alternatives = [self._failing(one, event, absent) for one in choice]
            if all(alternatives):
                failed += [clause for clauses in alternatives for clause in clauses]
        if failed:
            return failed
        # Each part holds by itself. If the whole does not, it is because they hold in different elements.
        match = compiled(fields, self._absences, Spent())
        if fits(match, found_at(event, fields.names), absent) if fields.names else match(event, absent):
            return []
        where = f"in {_dotted(fields.names)}, " if fields.names else ""
        reason = f"{where}every field holds by itself, but not all of them in the same element of an array"
        return [FailedClause(fields.position.path, reason)]

    def _missed(self, leaf: Leaf, event: Event, absent: int) -> FailedClause | None:
        found = found_at(event, leaf.names)
        values = [value for value in found if type(value) in KINDS]
        tests = leaf.values.tests
        if absent & self._absences.bit(leaf) or any(type(one) in tests and tests[type(one)](one) for one in values):
            return None
        name = _dotted(leaf.names)
        if values:
            return FailedClause(leaf.position.path, mismatch(name, values, leaf.values.misses))
        reason = f"{name} is an object, and has no value" if _has_object(found) else f"{name} is missing"
        return FailedClause(leaf.position.path, reason)


def _dotted(names: Names) -> str:
    return "".join(map(step, names)).removeprefix(".")


def _has_object(found: list[Any]) -> bool:
    return any(isinstance(item, dict) for item in found)


def _fields(value: Any, position: Position, names: Names, *, in_choice: bool = False) -> Fields:
    """Parse one object of a pattern; `names` lead to it from the event."""
    position = position.deeper()
    leaves: dict[str, tuple[Leaf, ...]] = {}
    objects: dict[str, Fields] = {}
    choices: tuple[tuple[Fields, ...], ...] = ()
    for place, name, constraint in position.entries(value, "fields"):
        if name == OR:
            items = place.items(constraint, "patterns", at_least=2)
            choices = (tuple(_fields(item, at, names, in_choice=True) for at, item in items),)
            continue
        if in_choice and name in OPERATORS:
            place.refuse(f"'{name}' is an operator, and no field's name under $or: write the field that it is about")
        if not names and name != DATA:
            check_name(name, place)
        may_nest = bool(names) or name == DATA
        if isinstance(constraint, Mapping) and may_nest:
            objects[name] = _fields(constraint, place, (*names, name))
        elif isinstance(constraint, (list, tuple)):
            leaves[name] = (Leaf(place, (*names, name), parse_values(constraint, place)),)
        else:
            _refuse_constraint(name, constraint, place, may_nest=may_nest)
    return Fields(position, names, leaves, objects, choices)


def _refuse_constraint(name: str, constraint: Any, position: Position, *, may_nest: bool) -> None:
    if not may_nest:
        what = "a non-empty array of values, for an attribute has no fields"
        position.refuse(f"must be {what}, not {kind_of(constraint)}; put a single value or operator in [ ]")
    meant = f"if '{name}' is meant as an operator, put the object around it" if name in OPERATORS else "put a value"
    position.refuse(f"must be an array of values or an object of fields, not {kind_of(constraint)}; {meant} in [ ]")


def _types(fields: Fields) -> Globs:
    """What the pattern says about `type`, itself or in every alternative of a `$or`."""
    own = [leaf.values.globs for leaf in fields.leaves.get("type", ())]
    return narrowest([*own, *(union(_types(one) for one in choice) for choice in fields.choices)])
