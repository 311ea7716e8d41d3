from typing import Any

import pytest

from plugin_sdk.events import Event, new_event
from plugin_sdk.filters import FailedClause, compile_filters

EVENT = Event(
    id="7",
    source="/shop/1",
    type="order.placed",
    subject="Order 7",
    time="2026-11-20T10:00:00.50+01:00",
    datacontenttype="application/json",
    dataschema="https://example.com/order.json",
    data={"type": "not an attribute"},
    extensions={"paid": True, "gift": False, "tries": -3, "region": "eu"},
)


def matches(*filters: dict[str, Any], event: Event = EVENT) -> bool:
    return compile_filters(filters).matches(event)


CASES: list[tuple[dict[str, Any], bool]] = [
    ({"exact": {"type": "order.placed"}}, True),
    ({"exact": {"type": "order.place"}}, False),
    ({"exact": {"type": "Order.placed"}}, False),
    ({"exact": {"type": "order.*"}}, False),
    ({"exact": {"type": "order.placed", "source": "/shop/1"}}, True),
    ({"exact": {"type": "order.placed", "source": "/shop/2"}}, False),
    ({"exact": {"type": "order.paid", "source": "/shop/1"}}, False),
    ({"exact": {"id": "7"}}, True),
    ({"exact": {"specversion": "1.0"}}, True),
    ({"exact": {"specversion": "1"}}, False),
    ({"exact": {"subject": "Order 7"}}, True),
    ({"exact": {"time": "2026-11-20T10:00:00.50+01:00"}}, True),
    ({"exact": {"time": "2026-11-20T09:00:00.5Z"}}, False),
    ({"exact": {"datacontenttype": "application/json"}}, True),
    ({"exact": {"dataschema": "https://example.com/order.json"}}, True),
    ({"exact": {"paid": "true"}}, True),
    ({"exact": {"paid": "True"}}, False),
    ({"exact": {"paid": "1"}}, False),
    ({"exact": {"gift": "false"}}, True),
    ({"exact": {"tries": "-3"}}, True),
    ({"exact": {"tries": "-3.0"}}, False),
    ({"exact": {"region": "eu"}}, True),
    ({"exact": {"missing": "eu"}}, False),
    ({"prefix": {"type": "order."}}, True),
    ({"prefix": {"type": "order.placed"}}, True),
    ({"prefix": {"type": "Order."}}, False),
    ({"prefix": {"type": "placed"}}, False),
    ({"prefix": {"type": "order.", "source": "/shop"}}, True),
    ({"prefix": {"type": "order.", "source": "/web"}}, False),
    ({"prefix": {"time": "2026-11-20"}}, True),
    ({"prefix": {"tries": "-"}}, True),
    ({"prefix": {"missing": "e"}}, False),
    ({"suffix": {"type": ".placed"}}, True),
    ({"suffix": {"type": "order.placed"}}, True),
    ({"suffix": {"type": ".Placed"}}, False),
    ({"suffix": {"type": "order"}}, False),
    ({"suffix": {"type": ".placed", "subject": "7"}}, True),
    ({"suffix": {"type": ".placed", "subject": "8"}}, False),
    ({"suffix": {"paid": "rue"}}, True),
    ({"suffix": {"missing": "u"}}, False),
    ({"all": [{"exact": {"id": "7"}}]}, True),
    ({"all": [{"exact": {"id": "7"}}, {"prefix": {"type": "order"}}]}, True),
    ({"all": [{"exact": {"id": "7"}}, {"prefix": {"type": "invoice"}}]}, False),
    ({"any": [{"exact": {"id": "8"}}]}, False),
    ({"any": [{"exact": {"id": "8"}}, {"prefix": {"type": "order"}}]}, True),
    ({"any": [{"exact": {"id": "8"}}, {"prefix": {"type": "invoice"}}]}, False),
    ({"not": {"exact": {"id": "7"}}}, False),
    ({"not": {"exact": {"id": "8"}}}, True),
    ({"not": {"exact": {"missing": "x"}}}, True),
    ({"not": {"not": {"any": [{"all": [{"exact": {"id": "7"}}]}]}}}, True),
]


@pytest.mark.parametrize(("one", "expected"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_filter_holds_or_not(one: dict[str, Any], *, expected: bool) -> None:
    assert matches(one) is expected


def test_without_filters_every_event_matches() -> None:
    assert matches()
    assert compile_filters([]).explain(EVENT) == []
    assert compile_filters([]).types is None


def test_of_several_filters_all_must_hold() -> None:
    assert matches({"exact": {"id": "7"}}, {"exact": {"source": "/shop/1"}})
    assert not matches({"exact": {"id": "7"}}, {"exact": {"source": "/shop/2"}})
    assert not matches({"exact": {"id": "8"}}, {"exact": {"source": "/shop/1"}})


def test_an_attribute_that_the_event_lacks_holds_nothing() -> None:
    bare = Event(id="1", source="/", type="a")
    for name in ("subject", "time", "datacontenttype", "dataschema"):
        for dialect in ("exact", "prefix", "suffix"):
            assert not matches({dialect: {name: "a"}}, event=bare)


def test_what_is_compiled_does_not_change_with_what_it_was_compiled_from() -> None:
    one: dict[str, Any] = {"pattern": {"type": ["order.placed"], "data": {"x": [1]}}}
    compiled = compile_filters([one])
    one["pattern"]["type"].append("x")
    one["pattern"]["data"]["x"][0] = 2
    assert compiled.matches(new_event("order.placed", source="/", data={"x": 1}))
    assert not compiled.matches(new_event("order.placed", source="/", data={"x": 2}))


EXPLAINED: list[tuple[list[dict[str, Any]], list[tuple[str, str]]]] = [
    ([{"exact": {"type": "a.b"}}], [("filters[0].exact.type", "type is 'order.placed', which is not 'a.b'")]),
    (
        [{"prefix": {"type": "c."}}],
        [("filters[0].prefix.type", "type is 'order.placed', which does not start with 'c.'")],
    ),
    ([{"suffix": {"tries": "4"}}], [("filters[0].suffix.tries", "tries is '-3', which does not end with '4'")]),
    ([{"exact": {"none": "x"}}], [("filters[0].exact.none", "none is missing")]),
    (
        [{"exact": {"id": "7", "paid": "false", "region": "us"}}],
        [
            ("filters[0].exact.paid", "paid is 'true', which is not 'false'"),
            ("filters[0].exact.region", "region is 'eu', which is not 'us'"),
        ],
    ),
    (
        [{"exact": {"id": "8"}}, {"exact": {"id": "7"}}, {"prefix": {"source": "/x"}}],
        [
            ("filters[0].exact.id", "id is '7', which is not '8'"),
            ("filters[2].prefix.source", "source is '/shop/1', which does not start with '/x'"),
        ],
    ),
    (
        [{"all": [{"exact": {"id": "7"}}, {"exact": {"id": "8"}}]}],
        [("filters[0].all[1].exact.id", "id is '7', which is not '8'")],
    ),
    (
        [{"any": [{"exact": {"id": "8"}}, {"exact": {"id": "9"}}]}],
        [
            ("filters[0].any[0].exact.id", "id is '7', which is not '8'"),
            ("filters[0].any[1].exact.id", "id is '7', which is not '9'"),
        ],
    ),
    ([{"any": [{"exact": {"id": "8"}}, {"exact": {"id": "7"}}]}], []),
    ([{"not": {"prefix": {"id": "7"}}}], [("filters[0].not", "the filter under 'not' matches")]),
    ([{"not": {"prefix": {"id": "8"}}}], []),
    (
        [{"all": [{"not": {"exact": {"id": "7"}}}]}],
        [("filters[0].all[0].not", "the filter under 'not' matches")],
    ),
]


@pytest.mark.parametrize(("filters", "expected"), EXPLAINED, ids=[str(case[0]) for case in EXPLAINED])
def test_the_clauses_that_failed_are_explained(filters: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    assert compile_filters(filters).explain(EVENT) == [FailedClause(path, reason) for path, reason in expected]


def test_a_long_value_is_cut_in_the_explanation() -> None:
    (clause,) = compile_filters([{"exact": {"subject": "x"}}]).explain(new_event("a", source="/", subject="y" * 5000))
    assert len(clause.reason) < 200


TYPES: list[tuple[list[dict[str, Any]], tuple[str, ...] | None]] = [
    ([{"exact": {"type": "a.b"}}], ("a.b",)),
    ([{"prefix": {"type": "a."}}], ("a.*",)),
    ([{"suffix": {"type": ".b"}}], ("*.b",)),
    ([{"exact": {"source": "/x"}}], None),
    ([{"exact": {"source": "/x", "type": "a.b"}}], ("a.b",)),
    ([{"exact": {"type": "a.*"}}], None),
    ([{"prefix": {"type": "*a"}}], None),
    ([{"suffix": {"type": "a*b"}}], None),
    ([{"not": {"exact": {"type": "a.b"}}}], None),
    ([{"any": [{"exact": {"type": "a"}}, {"prefix": {"type": "b."}}]}], ("a", "b.*")),
    ([{"any": [{"exact": {"type": "a"}}, {"exact": {"type": "a"}}]}], ("a",)),
    ([{"any": [{"exact": {"type": "a"}}, {"exact": {"source": "/x"}}]}], None),
    ([{"any": [{"exact": {"type": "a"}}, {"not": {"exact": {"type": "b"}}}]}], None),
    ([{"all": [{"exact": {"source": "/x"}}, {"exact": {"type": "a"}}]}], ("a",)),
    ([{"prefix": {"type": "a."}}, {"exact": {"type": "a.b"}}], ("a.b",)),
    ([{"exact": {"type": "a.b"}}, {"prefix": {"type": "a."}}], ("a.b",)),
    ([{"prefix": {"type": "a."}}, {"suffix": {"type": ".bcd"}}], ("*.bcd",)),
    ([{"prefix": {"type": "a."}}, {"not": {"exact": {"type": "a.b"}}}], ("a.*",)),
    ([{"any": [{"exact": {"type": "a"}}, {"exact": {"type": "b"}}]}, {"exact": {"type": "b"}}], ("b",)),
    ([{"pattern": {"type": ["a", "b"]}}], ("a", "b")),
    ([{"pattern": {"type": [{"prefix": "a."}, {"suffix": ".z"}]}}], ("a.*", "*.z")),
    ([{"pattern": {"type": [{"wildcard": "a.*.z"}]}}], ("a.*.z",)),
    ([{"pattern": {"type": [{"wildcard": "a.\\*.*"}]}}], None),
    ([{"pattern": {"type": [{"wildcard": "a.\\\\.*"}]}}], ("a.\\.*",)),
    ([{"pattern": {"type": [{"wildcard": "*"}]}}], None),
    ([{"pattern": {"type": [{"prefix": ""}]}}], None),
    ([{"pattern": {"type": ["a*"]}}], None),
    ([{"pattern": {"type": ["a", {"equals-ignore-case": "b"}]}}], None),
    ([{"pattern": {"type": [{"prefix": {"equals-ignore-case": "b"}}]}}], None),
    ([{"pattern": {"type": [{"anything-but": "b"}]}}], None),
    ([{"pattern": {"type": [{"exists": True}]}}], None),
    ([{"pattern": {"type": [5]}}], None),
    ([{"pattern": {"source": ["a"]}}], None),
    ([{"pattern": {"data": {"type": ["a"]}}}], None),
    ([{"pattern": {"$or": [{"type": ["a"]}, {"type": ["b"], "source": ["/x"]}]}}], ("a", "b")),
    ([{"pattern": {"$or": [{"type": ["a"]}, {"source": ["/x"]}]}}], None),
    ([{"pattern": {"$or": [{"type": ["a"]}, {"source": ["/x"]}], "type": [{"prefix": "b"}]}}], ("b*",)),
    ([{"pattern": {"type": ["a"]}}, {"prefix": {"type": "a"}}], ("a",)),
]


@pytest.mark.parametrize(("filters", "expected"), TYPES, ids=[str(case[0]) for case in TYPES])
def test_what_filters_say_about_the_type_is_told(
    filters: list[dict[str, Any]], expected: tuple[str, ...] | None
) -> None:
    assert compile_filters(filters).types == expected
