"""What holds for all filters and all events."""

import re
from typing import Any

from hypothesis import event as counted
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_sdk.description import type_pattern
from plugin_sdk.events import Event
from plugin_sdk.filters import CompiledFilters, compile_filters

Filter = dict[str, Any]

NAMES = st.sampled_from(["a", "b", "c", "type"])
TEXTS = st.text("ab.*", min_size=1, max_size=3)
NUMBERS = st.sampled_from([0, 1, -1.5, 2**53, 10**400, -(10**400), 1e308, float("inf"), float("-inf")])
SCALARS = (
    st.none() | st.booleans() | st.text("ab.*\\\nß\ud800", max_size=4) | NUMBERS | st.sampled_from(["10.0.0.1", "::1"])
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
EVENTS = st.builds(
    Event,
    id=TEXTS,
    source=TEXTS,
    type=TEXTS,
    subject=st.none() | TEXTS,
    time=st.none() | st.just("2026-11-20T10:00:00Z"),
    datacontenttype=st.sampled_from([None, "application/json", "a/b+json", "text/plain", "not a media type"]),
    data=DATA,
    extensions=st.dictionaries(st.sampled_from(["x", "y"]), TEXTS | st.booleans() | st.integers(-2, 2), max_size=2),
) | st.builds(Event, id=TEXTS, source=TEXTS, type=TEXTS, data_base64=st.none() | st.just("AA=="))

ATTRIBUTES = st.sampled_from(["type", "type", "type", "source", "subject", "x", "y", "time"])
COMPARISONS = st.builds(
    lambda dialect, named: {dialect: named},
    st.sampled_from(["exact", "prefix", "suffix"]),
    st.dictionaries(ATTRIBUTES, TEXTS | st.sampled_from(["true", "1", "a", "b"]), min_size=1, max_size=2),
)
WILDCARDS = st.lists(st.sampled_from(["a", "b", ".", "\\*", "\\\\"]), max_size=3).flatmap(
    lambda pieces: st.sampled_from(["".join(pieces), "*".join(pieces), "*" + "".join(pieces), "".join(pieces) + "*"])
)
OPERATORS = st.one_of(
    st.builds(lambda name, text: {name: text}, st.sampled_from(["prefix", "suffix", "equals-ignore-case"]), TEXTS),
    st.builds(lambda name, text: {name: {"equals-ignore-case": text}}, st.sampled_from(["prefix", "suffix"]), TEXTS),
    WILDCARDS.map(lambda text: {"wildcard": text}),
    st.sampled_from(
        [
            {"exists": True},
            {"exists": False},
            {"numeric": [">", 0]},
            {"numeric": [">=", -2, "<", 1]},
            {"cidr": "10.0.0.0/8"},
            {"cidr": "::/0"},
            {"anything-but": ["a", 1, None]},
            {"anything-but": {"prefix": ["a", "b"]}},
            {"anything-but": {"wildcard": "a*"}},
        ]
    ),
)
WANTED = st.lists(OPERATORS | TEXTS | st.sampled_from([None, True, False, 0, 1, -1.5, 1e308]), min_size=1, max_size=2)
FIELDS = st.recursive(
    st.dictionaries(NAMES, WANTED, min_size=1, max_size=2),
    lambda inner: (
        st.dictionaries(NAMES, WANTED | inner, min_size=1, max_size=2)
        | st.builds(lambda fields, choice: {**fields, "$or": choice}, inner, st.lists(inner, min_size=2, max_size=2))
    ),
    max_leaves=5,
)


def pattern(named: dict[str, Any], data: list[Any], choice: list[dict[str, Any]]) -> Filter:
    whole = {**named, **({"data": data[0]} if data else {}), **({"$or": choice} if choice else {})}
    return {"pattern": whole or {"type": [{"exists": True}]}}


NAMED = st.dictionaries(ATTRIBUTES, WANTED, max_size=2)
FULL = st.dictionaries(ATTRIBUTES, WANTED, min_size=1, max_size=2)
WHOLE = st.builds(
    pattern, NAMED, st.lists(FIELDS | WANTED, max_size=1), st.just([]) | st.lists(FULL, min_size=2, max_size=2)
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    COMPARISONS | WHOLE,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda filters: {"all": filters}),
        st.lists(inner, min_size=1, max_size=3).map(lambda filters: {"any": filters}),
        inner.map(lambda one: {"not": one}),
    ),
    max_leaves=4,
)
LISTS = st.lists(FILTERS, max_size=3)


def holds(event: Event, *filters: Filter) -> bool:
    return compile_filters(filters).matches(event)


def negated(filters: list[Filter]) -> list[Filter]:
    return [{"not": one} for one in filters]


@given(FILTERS, EVENTS)
def test_not_turns_a_filter_around_and_twice_leaves_it(one: Filter, event: Event) -> None:
    assert holds(event, {"not": one}) is not holds(event, one)
    assert holds(event, {"not": {"not": one}}) is holds(event, one)


@given(st.lists(FILTERS, min_size=1, max_size=3), EVENTS)
def test_all_and_any_follow_from_their_parts(filters: list[Filter], event: Event) -> None:
    assert holds(event, {"all": filters}) is all(holds(event, one) for one in filters)
    assert holds(event, {"any": filters}) is any(holds(event, one) for one in filters)
    assert holds(event, *filters) is holds(event, {"all": filters})


@given(st.lists(FILTERS, min_size=1, max_size=3), EVENTS)
def test_not_all_is_any_not_and_not_any_is_all_not(filters: list[Filter], event: Event) -> None:
    assert holds(event, {"not": {"all": filters}}) is holds(event, {"any": negated(filters)})
    assert holds(event, {"not": {"any": filters}}) is holds(event, {"all": negated(filters)})


@given(st.lists(FULL, min_size=2, max_size=3), EVENTS)
def test_or_of_a_pattern_is_any_of_patterns(choice: list[dict[str, Any]], event: Event) -> None:
    patterns = [{"pattern": one} for one in choice]
    assert holds(event, {"pattern": {"$or": choice}}) is holds(event, {"any": patterns})


@given(st.sampled_from(["exact", "prefix", "suffix"]), TEXTS, EVENTS)
def test_a_dialect_and_the_operator_of_its_name_agree_on_strings(dialect: str, text: str, event: Event) -> None:
    value = text if dialect == "exact" else {dialect: text}
    for name in ("type", "source", "subject"):
        assert holds(event, {dialect: {name: text}}) is holds(event, {"pattern": {name: [value]}})


@settings(max_examples=400)
@given(LISTS, EVENTS)
def test_there_is_something_to_explain_exactly_where_an_event_does_not_match(
    filters: list[Filter], event: Event
) -> None:
    compiled = compile_filters(filters)
    failed = compiled.explain(event)
    counted("matches" if compiled.matches(event) else "does not match")
    assert compiled.matches(event) is (failed == [])
    for clause in failed:
        assert clause.path.startswith("filters[")
        assert clause.reason
        assert "\n" not in clause.reason


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4) | st.just(10**400),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(LISTS, st.builds(Event, id=st.text(), source=st.text(), type=st.text(), data=ANYTHING))
def test_whatever_an_event_holds_it_matches_or_does_not(filters: list[Filter], event: Event) -> None:
    compiled = compile_filters(filters)
    assert compiled.matches(event) is (compiled.explain(event) == [])


def fits_a_type(compiled: CompiledFilters, event: Event) -> bool:
    return compiled.types is None or any(re.fullmatch(type_pattern(glob), event.type) for glob in compiled.types)


@settings(max_examples=600)
@given(LISTS, EVENTS)
def test_the_type_of_a_matching_event_fits_one_of_the_globs(filters: list[Filter], event: Event) -> None:
    compiled = compile_filters(filters)
    counted(f"types: {compiled.types is not None}, matches: {compiled.matches(event)}")
    if compiled.matches(event):
        assert fits_a_type(compiled, event)


ON_TYPE = st.one_of(
    st.builds(lambda dialect, text: {dialect: {"type": text}}, st.sampled_from(["exact", "prefix", "suffix"]), TEXTS),
    st.builds(lambda text: {"pattern": {"type": [text]}}, OPERATORS | TEXTS),
)


@settings(max_examples=600)
@given(
    st.recursive(
        ON_TYPE,
        lambda inner: st.builds(
            lambda name, filters: {name: filters},
            st.sampled_from(["all", "any"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        max_leaves=4,
    ),
    TEXTS,
)
def test_the_globs_of_filters_on_the_type_miss_no_type(one: Filter, event_type: str) -> None:
    compiled = compile_filters([one])
    event = Event(id="1", source="/", type=event_type)
    counted(f"types: {compiled.types is not None}, matches: {compiled.matches(event)}")
    assert fits_a_type(compiled, event) or not compiled.matches(event)


@given(LISTS, EVENTS)
def test_an_event_matches_alike_however_often_it_is_asked_about(filters: list[Filter], event: Event) -> None:
    compiled, again = compile_filters(filters), compile_filters(filters)
    assert compiled.matches(event) is compiled.matches(event) is again.matches(event)
    assert compiled.types == again.types
