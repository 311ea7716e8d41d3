"""Patterns and arrays, by table, and against a reference that enumerates every choice of array elements."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_sdk.events import new_event
from plugin_sdk.filters import FailedClause, compile_filters

PEOPLE = [{"first": "John", "last": "Doe"}, {"first": "Anna", "last": "Smith"}, {"first": "Peter", "last": "Jones"}]
GROUPS = [[PEOPLE[0], PEOPLE[1]], [PEOPLE[2]]]
ORDERS = [
    {"id": 1, "lines": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}]},
    {"id": 2, "lines": [{"sku": "a", "n": 2}], "note": "x"},
]


def matches(pattern: dict[str, Any], data: Any) -> bool:
    return compile_filters([{"pattern": {"data": pattern}}]).matches(new_event("a", source="/", data=data))


CASES: list[tuple[str, dict[str, Any], Any, bool]] = [
    ("one field of an element", {"p": {"first": ["Anna"]}}, {"p": PEOPLE}, True),
    ("two of one element", {"p": {"first": ["Anna"], "last": ["Smith"]}}, {"p": PEOPLE}, True),
    ("two of two elements", {"p": {"first": ["Anna"], "last": ["Jones"]}}, {"p": PEOPLE}, False),
    ("two of one in arrays of arrays", {"p": {"first": ["Peter"], "last": ["Jones"]}}, {"p": GROUPS}, True),
    ("two of two in one inner array", {"p": {"first": ["John"], "last": ["Smith"]}}, {"p": GROUPS}, False),
    ("two of two in two inner arrays", {"p": {"first": ["John"], "last": ["Jones"]}}, {"p": GROUPS}, False),
    ("several values, one element", {"p": {"first": ["X", "Anna"], "last": ["Y", "Smith"]}}, {"p": PEOPLE}, True),
    ("data itself is the array", {"first": ["Anna"], "last": ["Smith"]}, PEOPLE, True),
    ("data itself is the array, two elements", {"first": ["Anna"], "last": ["Doe"]}, PEOPLE, False),
    ("nested arrays, consistent", {"o": {"id": [2], "lines": {"sku": ["a"], "n": [2]}}}, {"o": ORDERS}, True),
    ("nested arrays, other line", {"o": {"id": [1], "lines": {"sku": ["a"], "n": [2]}}}, {"o": ORDERS}, False),
    ("nested arrays, other order", {"o": {"id": [2], "lines": {"sku": ["b"]}}}, {"o": ORDERS}, False),
    ("two arrays are independent", {"p": {"first": ["Anna"]}, "o": {"id": [2]}}, {"p": PEOPLE, "o": ORDERS}, True),
    ("values beside objects", {"p": {"first": ["Anna"]}}, {"p": [1, None, "x", *PEOPLE]}, True),
    ("only values", {"p": {"first": ["Anna"]}}, {"p": [1, "Anna"]}, False),
    ("an empty array", {"p": {"first": ["Anna"]}}, {"p": []}, False),
    ("arrays of values at the end", {"p": {"t": ["x"], "u": ["y"]}}, {"p": [{"t": ["z", "x"], "u": ["y"]}]}, True),
    ("missing in no element", {"o": {"note": [{"exists": False}]}}, {"o": ORDERS}, False),
    ("missing in the element that fits", {"o": {"id": [1], "note": [{"exists": False}]}}, {"o": ORDERS}, False),
    ("missing everywhere", {"o": {"id": [1], "gone": [{"exists": False}]}}, {"o": ORDERS}, True),
    ("missing or a value elsewhere", {"o": {"id": [1], "note": [{"exists": False}, "x"]}}, {"o": ORDERS}, False),
    ("missing or a value here", {"o": {"id": [2], "note": [{"exists": False}, "x"]}}, {"o": ORDERS}, True),
    ("missing with its parent", {"q": {"r": {"s": [{"exists": False}]}}}, {"o": ORDERS}, True),
    ("missing where the parent is a value", {"q": {"r": [{"exists": False}]}}, {"q": 1}, True),
    ("missing where the parent is empty", {"q": {"r": [{"exists": False}]}}, {"q": []}, True),
    ("missing, and its sibling there", {"q": {"r": [{"exists": False}], "s": [1]}}, {"q": []}, False),
    ("there in an element", {"o": {"id": [1], "note": [{"exists": True}]}}, {"o": ORDERS}, False),
    (
        "a choice within an element",
        {"p": {"$or": [{"first": ["X"]}, {"last": ["Smith"]}], "first": ["Anna"]}},
        {"p": PEOPLE},
        True,
    ),
    (
        "a choice within another element",
        {"p": {"$or": [{"first": ["X"]}, {"last": ["Doe"]}], "first": ["Anna"]}},
        {"p": PEOPLE},
        False,
    ),
    (
        "a choice that shares its array with a sibling",
        {"p": {"first": ["Anna"]}, "$or": [{"p": {"last": ["Smith"]}}, {"q": [1]}]},
        {"p": PEOPLE},
        True,
    ),
    (
        "a choice that shares its array with a sibling, in another element",
        {"p": {"first": ["Anna"]}, "$or": [{"p": {"last": ["Doe"]}}, {"q": [1]}]},
        {"p": PEOPLE},
        False,
    ),
    (
        "a choice that need not share its array",
        {"p": {"first": ["Anna"]}, "$or": [{"p": {"last": ["Doe"]}}, {"q": [1]}]},
        {"p": PEOPLE, "q": 1},
        True,
    ),
    (
        "a choice within a choice that shares",
        {"$or": [{"q": [1]}, {"p": {"first": ["Anna"]}, "$or": [{"p": {"last": ["Doe"]}}, {"p": {"last": ["X"]}}]}]},
        {"p": PEOPLE},
        False,
    ),
    ("one field twice", {"x": [1], "$or": [{"x": [2]}, {"y": [1]}]}, {"x": [1, 2]}, True),
    ("one field twice, one value", {"x": [1], "$or": [{"x": [2]}, {"y": [1]}]}, {"x": [1]}, False),
    ("a name with a dot", {"a.b": [1]}, {"a": {"b": 1}}, False),
    ("a name with a dot in the event", {"a.b": [1]}, {"a.b": 1}, True),
    ("a field named like an operator", {"exists": {"prefix": ["x"]}}, {"exists": {"prefix": "x"}}, True),
]


@pytest.mark.parametrize(("pattern", "data", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_fields_must_fit_in_one_element_of_each_array(pattern: dict[str, Any], data: Any, *, expected: bool) -> None:
    assert matches(pattern, data) is expected


def test_a_choice_may_stand_beside_attributes_and_data() -> None:
    pattern = {
        "$or": [{"type": ["a.b"], "data": {"x": [1]}}, {"source": ["/s"], "$or": [{"subject": ["1"]}, {"id": ["2"]}]}],
        "data": {"y": [1]},
    }
    compiled = compile_filters([{"pattern": pattern}])
    assert compiled.matches(new_event("a.b", source="/", data={"x": 1, "y": 1}))
    assert compiled.matches(new_event("c", source="/s", subject="1", data={"y": 1}))
    assert compiled.matches(new_event("c", source="/s", id="2", data={"y": 1}))
    assert not compiled.matches(new_event("c", source="/s", id="3", data={"y": 1}))
    assert not compiled.matches(new_event("a.b", source="/", data={"x": 1}))


EXPLAINED: list[tuple[dict[str, Any], Any, list[tuple[str, str]]]] = [
    (
        {"p": {"first": ["Anna"], "last": ["Jones"]}},
        {"p": PEOPLE},
        [(".p", "in data.p, every field holds by itself, but not all of them in the same element of an array")],
    ),
    (
        {"p": {"first": ["Anna"], "last": ["Jones"]}, "q": [1]},
        {"p": PEOPLE},
        [
            (".q", "data.q is missing"),
            (".p", "in data.p, every field holds by itself, but not all of them in the same element of an array"),
        ],
    ),
    (
        {"p": {"first": ["Anna"], "last": ["X"]}},
        {"p": PEOPLE[:2]},
        [(".p.last", "data.p.last has the values 'Doe', 'Smith', each of which is not 'X'")],
    ),
    (
        {"$or": [{"q": [1]}, {"r": [1]}]},
        {"q": 2},
        [(".$or[0].q", "data.q is 2, which is not 1"), (".$or[1].r", "data.r is missing")],
    ),
    ({"$or": [{"q": [1]}, {"r": [1]}]}, {"r": 1}, []),
    (
        {"p": {"first": ["Anna"]}, "$or": [{"p": {"last": ["Doe"]}}, {"p": {"last": ["Jones"]}}]},
        {"p": PEOPLE},
        [("", "in data, every field holds by itself, but not all of them in the same element of an array")],
    ),
]


@pytest.mark.parametrize(("pattern", "data", "expected"), EXPLAINED, ids=[str(case[0]) for case in EXPLAINED])
def test_what_fits_only_apart_is_explained(pattern: dict[str, Any], data: Any, expected: list[tuple[str, str]]) -> None:
    found = compile_filters([{"pattern": {"data": pattern}}]).explain(new_event("a", source="/", data=data))
    assert found == [FailedClause(f"filters[0].pattern.data{path}", reason) for path, reason in expected]


def test_fields_that_fit_only_apart_across_the_top_are_explained() -> None:
    pattern = {"data": {"first": ["Anna"]}, "$or": [{"data": {"last": ["Doe"]}}, {"type": ["x"]}]}
    (clause,) = compile_filters([{"pattern": pattern}]).explain(new_event("a", source="/", data=PEOPLE))
    assert clause.path == "filters[0].pattern"
    assert clause.reason == "every field holds by itself, but not all of them in the same element of an array"


# The reference: an event is the set of its worlds. In each world, one object is chosen from every array (and all its
# values stay), so that every path has a plain list of values; a pattern is then an ordinary boolean formula.

Path = tuple[str, ...]
World = dict[Path, list[Any]]


def flattened(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list):
            yield from flattened(item)
        else:
            yield item


def worlds(value: Any, path: Path = ()) -> list[World]:
    if isinstance(value, dict):
        below = [worlds(item, (*path, name)) for name, item in value.items()]
        return [{key: found for world in choice for key, found in world.items()} for choice in product(*below)]
    if isinstance(value, list):
        items = list(flattened(value))
        plain = [item for item in items if not isinstance(item, dict)]
        kept: World = {path: plain} if plain else {}
        chosen = [world for item in items if isinstance(item, dict) for world in worlds(item, path)]
        return [{**kept, **world} for world in chosen or [{}]]
    return [{path: [value]}]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def value_fits(wanted: Any, value: Any) -> bool:
    if not isinstance(wanted, dict):
        if is_number(wanted):
            return is_number(value) and wanted == value
        return type(wanted) is type(value) and wanted == value
    ((name, argument),) = wanted.items()
    if name == "prefix":
        return isinstance(value, str) and value[: len(argument)] == argument
    if name == "numeric":
        return is_number(value) and value > argument[1]
    if name == "anything-but":
        return not any(value_fits(one, value) for one in argument)
    return name == "exists" and argument


def holds(pattern: dict[str, Any], world: World, everywhere: set[Path], path: Path = ()) -> bool:
    for name, wanted in pattern.items():
        here = (*path, name)
        if name == "$or":
            if not any(holds(one, world, everywhere, path) for one in wanted):
                return False
        elif isinstance(wanted, dict):
            if not holds(wanted, world, everywhere, here):
                return False
        elif not any(
            here not in everywhere if one == {"exists": False} else any(value_fits(one, v) for v in world.get(here, []))
            for one in wanted
        ):
            return False
    return True


def matches_by_reference(pattern: dict[str, Any], data: Any) -> bool:
    found = worlds(data)
    everywhere = {path for world in found for path in world}
    return any(holds(pattern, world, everywhere) for world in found)


NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.sampled_from([0, 1, 2, True, None, "", "x", "xy"])
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(NAMES, DATA, max_size=3) | st.lists(st.dictionaries(NAMES, DATA, max_size=3), max_size=3)
WANTED = st.lists(
    SCALARS
    | st.sampled_from([{"prefix": "x"}, {"numeric": [">", 0]}, {"exists": True}, {"exists": False}])
    | st.lists(SCALARS, min_size=1, max_size=2).map(lambda values: {"anything-but": values}),
    min_size=1,
    max_size=2,
)


def with_choice(fields: dict[str, Any], choice: list[dict[str, Any]]) -> dict[str, Any]:
    return {**fields, "$or": choice} if len(choice) > 1 else fields or {"a": [1]}


PATTERNS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(NAMES, WANTED, min_size=1, max_size=2),
    lambda inner: st.builds(
        with_choice,
        st.dictionaries(NAMES, WANTED | inner, max_size=3),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=600)
@given(PATTERNS, OBJECTS)
def test_arrays_match_as_if_every_choice_of_elements_were_tried(pattern: dict[str, Any], data: Any) -> None:
    assert matches(pattern, data) is matches_by_reference(pattern, data)


ROWS = st.lists(st.dictionaries(NAMES, st.sampled_from([0, 1]) | st.just([0, 1]), min_size=1, max_size=3), max_size=4)
FLAT = st.dictionaries(NAMES, st.sampled_from([[0], [1], [{"exists": False}], [1, {"exists": False}]]), min_size=1)
SHARING = st.builds(
    lambda beside, one, other: {"p": beside, "$or": [{"p": one}, {"p": other}]},
    FLAT,
    FLAT,
    FLAT | st.builds(lambda one, other: {"$or": [one, other]}, FLAT, FLAT),
)


@settings(max_examples=400)
@given(SHARING, ROWS)
def test_choices_that_share_an_array_match_as_if_every_choice_of_elements_were_tried(
    pattern: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    assert matches(pattern, {"p": rows}) is matches_by_reference(pattern, {"p": rows})
