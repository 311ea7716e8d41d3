from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.routing.filters import Filter
from plugin_sdk.events import Event, new_event

CASES: list[tuple[Sequence[str], str, bool]] = [
    (["order.placed"], "order.placed", True),
    (["order.placed"], "order.placed.twice", False),
    (["order.placed"], "an.order.placed", False),
    (["order.placed"], "Order.placed", False),
    (["order.placed"], "orderxplaced", False),
    (["order.*"], "order.placed", True),
    (["order.*"], "order.placed.twice", True),
    (["order.*"], "order.", True),
    (["order.*"], "order", False),
    (["order.*"], "orderly.placed", False),
    (["*.placed"], "order.placed", True),
    (["*.placed"], "order.placed.twice", False),
    (["order.*.paid"], "order.1.2.paid", True),
    (["order.*.paid"], "order.paid", False),
    (["*"], "anything at all (even this)+", True),
    (["a+b*"], "aab.c", False),
    (["a+b*"], "a+b.c", True),
    (["invoice.sent", "order.*"], "order.placed", True),
    (["order.*", "invoice.sent"], "invoice.sent", True),
    (["order.*", "*.sent"], "order.sent.not", True),
    (["order.*", "*.sent"], "invoice.sent", True),
    (["order.*", "*.sent"], "invoice.paid", False),
    ([], "order.placed", False),
]


@pytest.mark.parametrize(("types", "event_type", "takes"), CASES, ids=[f"{case[0]} {case[1]}" for case in CASES])
def test_a_type_is_taken_where_one_of_the_patterns_is_the_whole_of_it(
    types: Sequence[str], event_type: str, *, takes: bool
) -> None:
    assert Filter(types).takes_type(event_type) is takes


@given(st.lists(st.text("ab.*", min_size=1, max_size=6), max_size=4), st.text("ab.", min_size=1, max_size=8))
def test_a_star_stands_for_any_characters_and_everything_else_for_itself(types: list[str], event_type: str) -> None:
    assert Filter(types).takes_type(event_type) is any(fnmatchcase(event_type, glob) for glob in types)


@given(st.lists(st.text("ab.*", min_size=1, max_size=4), max_size=4), st.text("ab.", min_size=1, max_size=4))
def test_an_index_of_the_exact_types_and_the_patterns_misses_no_event(types: list[str], event_type: str) -> None:
    one = Filter(types)
    assert one.exact | set(one.patterns) == set(types)
    assert all("*" in pattern for pattern in one.patterns)
    if not one.patterns:
        assert one.takes_type(event_type) is (event_type in one.exact)


def event(source: str) -> Event:
    return new_event("order.placed", source=source)


@pytest.mark.parametrize(
    ("types", "source", "of", "takes"),
    [
        (["order.*"], None, "/shop", True),
        (["order.*"], "/shop", "/shop", True),
        (["order.*"], "/shop", "/shop/1", False),
        (["order.*"], "/shop", "/", False),
        (["order.*"], "/*", "/shop", False),
        (["order.*"], "", "/shop", False),
        (["invoice.*"], "/shop", "/shop", False),
        (["invoice.*"], None, "/shop", False),
    ],
)
def test_an_event_is_taken_where_its_type_and_its_source_fit(
    types: Sequence[str], source: str | None, of: str, *, takes: bool
) -> None:
    assert Filter(types, source).takes(event(of)) is takes


@pytest.mark.timeout(2)
def test_a_pattern_of_many_stars_is_matched_at_once() -> None:
    assert not Filter(["*a" * 20 + "*b"]).takes_type("a" * 60)
