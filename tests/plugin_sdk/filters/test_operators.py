from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk.events import Event, new_event
from plugin_sdk.filters import compile_filters

MISSING = object()


def of(value: Any) -> Event:
    # Not by `new_event`, which refuses what no JSON has: filters hold for that, too.
    return Event(id="1", source="/s", type="a.b", data={} if value is MISSING else {"x": value})


def holds(wanted: Any, value: Any) -> bool:
    compiled = compile_filters([{"pattern": {"data": {"x": wanted}}}])
    assert compiled.matches(of(value)) is not bool(compiled.explain(of(value)))
    return compiled.matches(of(value))


CASES: list[tuple[list[Any], list[Any], list[Any]]] = [
    # what the pattern says, what it matches, what it does not
    (["a"], ["a", ["b", "a"], [["a"]]], ["A", "ab", "", 0, None, True, [], ["b"], {}, {"a": "a"}, MISSING]),
    ([""], [""], ["a", None, False, 0, [], MISSING]),
    (["a", "b"], ["a", "b", ["c", "b"]], ["c", ["c"], "a,b"]),
    ([300], [300, 300.0, 3e2, [1, 300]], [301, "300", True, None, MISSING]),
    ([0], [0, -0.0, 0.0], [False, "", None, [], "0"]),
    ([1], [1, 1.0], [True, "1", [True]]),
    ([1.5], [1.5, 15e-1], [1, 2, "1.5"]),
    ([2**53], [2**53, 2**53 + 1, 2.0**53], [2**53 - 1, 2**53 + 4]),
    ([1e308], [1e308], [10**400, -(10**400), float("inf")]),
    ([True], [True, [False, True]], [1, 1.0, "true", False, None, MISSING]),
    ([False], [False], [0, "", None, "false", True, MISSING]),
    ([None], [None, [1, None]], [0, "", False, "null", [], {}, MISSING]),
    (["a", 1, None, True], ["a", 1, None, True], ["b", 2, False, MISSING]),
    ([{"prefix": "ab"}], ["ab", "abc", ["x", "abc"]], ["a", "Ab", "xab", "", 5, None, True, MISSING]),
    ([{"prefix": ""}], ["", "a"], [5, None, True, [], {}, MISSING]),
    ([{"prefix": "a"}, {"prefix": "b"}], ["ax", "bx"], ["cx", "xa"]),
    ([{"prefix": {"equals-ignore-case": "aB"}}], ["ab", "ABc", "aBx"], ["a", "xab", 5, MISSING]),
    ([{"prefix": {"equals-ignore-case": "É"}}], ["été", "Été"], ["ete"]),
    ([{"suffix": "ab"}], ["ab", "cab"], ["b", "aB", "abx", "", 5, None, MISSING]),
    ([{"suffix": ""}], ["", "a"], [5, MISSING]),
    ([{"suffix": {"equals-ignore-case": "aB"}}], ["ab", "xAB"], ["abx", "b", 5, MISSING]),
    ([{"equals-ignore-case": "aB"}], ["ab", "AB", "Ab"], ["abc", "a", "", 5, None, MISSING]),
    ([{"equals-ignore-case": "straße"}], ["STRASSE", "Straße"], ["strase"]),
    ([{"equals-ignore-case": ""}], [""], ["a", None]),
    ([{"anything-but": "a"}], ["b", "A", "", 5, None, True, ["a", "b"]], ["a", ["a", "a"], [], {}, MISSING]),
    ([{"anything-but": 1}], ["1", 2, True, None, 1.5], [1, 1.0, [1]]),
    ([{"anything-but": True}], [1, False, "true", None], [True]),
    ([{"anything-but": None}], [0, "", False], [None, [], MISSING]),
    ([{"anything-but": ["a", "b", 3]}], ["c", 4, None], ["a", "b", 3, 3.0, ["a", 3], MISSING]),
    ([{"anything-but": {"prefix": "a"}}], ["ba", "", 5, None], ["a", "ab", ["ab"], MISSING]),
    ([{"anything-but": {"prefix": ["a", "b"]}}], ["c"], ["a", "bx"]),
    ([{"anything-but": {"suffix": "a"}}], ["ab", 5], ["a", "ba"]),
    ([{"anything-but": {"suffix": ["a", "b"]}}], ["c"], ["a", "xb"]),
    ([{"anything-but": {"wildcard": "a*b"}}], ["a", "xab", 5], ["ab", "axb"]),
    ([{"anything-but": {"wildcard": ["a*", "*b"]}}], ["cc"], ["ac", "cb"]),
    ([{"anything-but": {"equals-ignore-case": "aB"}}], ["abc", 5], ["ab", "AB"]),
    ([{"anything-but": {"equals-ignore-case": ["a", "b"]}}], ["c"], ["A", "B"]),
    ([{"anything-but": "a"}, "a"], ["a", "b", None], [MISSING, [], {}]),
    ([{"anything-but": "a"}, {"anything-but": "b"}], ["a", "b"], [MISSING]),
    ([{"numeric": ["=", 5]}], [5, 5.0], [5.1, "5", True, None, MISSING]),
    ([{"numeric": [">", 0]}], [1, 0.1, 10**400, float("inf")], [0, -1, -(10**400), True, "1", None, MISSING]),
    ([{"numeric": [">=", 0]}], [0, -0.0, 1], [-0.1]),
    ([{"numeric": ["<", 0]}], [-1, -(10**400)], [0, 1, False]),
    ([{"numeric": ["<=", 0]}], [0, -1], [0.1, False]),
    ([{"numeric": [">", 0, "<=", 5]}], [1, 5, 0.5, [9, 5]], [0, 5.5, -1, [0, 6]]),
    ([{"numeric": ["<", 5, ">=", 0]}], [0, 4.9], [5, -1]),
    ([{"numeric": [">=", 5, "<=", 5]}], [5], [4, 6]),
    ([{"numeric": ["<", 0]}, {"numeric": [">", 9]}], [-1, 10], [0, 9]),
    ([{"cidr": "10.0.0.0/24"}], ["10.0.0.0", "10.0.0.255"], ["10.0.1.0", "::10.0.0.1", "10.0.0", "x", "", 167772160]),
    ([{"cidr": "10.0.0.7/24"}], ["10.0.0.1"], ["10.0.1.7"]),
    ([{"cidr": "10.0.0.7/32"}], ["10.0.0.7"], ["10.0.0.8", "10.0.0.7/32", " 10.0.0.7", "010.0.0.7"]),
    ([{"cidr": "0.0.0.0/0"}], ["1.2.3.4"], ["::1", "1.2.3", MISSING, None]),
    ([{"cidr": "2001:db8::/32"}], ["2001:db8::1", "2001:DB8:0:0::1"], ["2001:db9::1", "10.0.0.1", "2001:db8::1%eth0"]),
    ([{"cidr": "::1/128"}], ["::1", "0:0:0:0:0:0:0:1"], ["::2", ":" * 5000]),
    ([{"cidr": "10.0.0.0/8"}, {"cidr": "::/0"}], ["10.9.9.9", "::5"], ["11.0.0.0"]),
    ([{"exists": True}], [0, "", False, None, [1], [[None]]], [MISSING, [], {}, [[]], {"a": 1}, [{"a": 1}]]),
    ([{"exists": False}], [MISSING, [], {}, [[]], {"a": 1}, [{"a": 1}]], [0, "", False, None, [1], [[None]]]),
    ([{"exists": False}, "a"], [MISSING, "a", ["b", "a"]], ["b", None, ["b"]]),
    ([{"exists": False}, {"exists": True}], [MISSING, 1, [], {}], []),
    ([{"wildcard": "a*c"}], ["ac", "abc", "aacc", "a*c", "a\nc"], ["a", "c", "abcd", "xac", 5, None, MISSING]),
    ([{"wildcard": "*"}], ["", "a"], [5, None, MISSING]),
    ([{"wildcard": "abc"}], ["abc"], ["ab", "abcd", "*"]),
    ([{"wildcard": ""}], [""], ["a"]),
    ([{"wildcard": "*a*"}], ["a", "xax"], ["", "b"]),
    ([{"wildcard": "a*b*c"}], ["abc", "a1b2c", "abbc"], ["acb", "ac", "ab"]),
    ([{"wildcard": "*aa*aa*"}], ["aaaa", "aabaa"], ["aaa", "aa"]),
    ([{"wildcard": "a*bc*c"}], ["abcc", "abc-c"], ["abc", "ac"]),
    ([{"wildcard": "ab*ba"}], ["abba", "ab-ba"], ["aba", "ab"]),
    ([{"wildcard": "a\\*b"}], ["a*b"], ["a\\*b", "axb", "ab"]),
    ([{"wildcard": "a\\\\*"}], ["a\\", "a\\b"], ["a", "a*"]),
    ([{"wildcard": "*\\**"}], ["*", "a*b"], ["", "ab"]),
    ([{"wildcard": "a*"}, {"wildcard": "*b"}], ["ax", "xb"], ["xx"]),
    (["a", {"prefix": "b"}, {"suffix": "c"}, {"numeric": [">", 1]}], ["a", "bx", "xc", 2], ["d", 1, None, True]),
]


@pytest.mark.parametrize(("wanted", "hits", "misses"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_field_holds_for_these_values_and_not_for_those(
    wanted: list[Any], hits: list[Any], misses: list[Any]
) -> None:
    assert [value for value in hits if not holds(wanted, value)] == []
    assert [value for value in misses if holds(wanted, value)] == []


def fits_naively(wildcard: str, text: str) -> bool:
    """Character by character, trying every length for every star."""
    if not wildcard:
        return not text
    if wildcard[0] == "*":
        return any(fits_naively(wildcard[1:], text[at:]) for at in range(len(text) + 1))
    if wildcard[0] == "\\":
        return text[:1] == wildcard[1] and fits_naively(wildcard[2:], text[1:])
    return text[:1] == wildcard[0] and fits_naively(wildcard[1:], text[1:])


WILDCARDS = st.lists(st.sampled_from(["a", "b", "*", "\\*", "\\\\"]), max_size=7).map(
    lambda parts: "".join(part for at, part in enumerate(parts) if part != "*" or at == 0 or parts[at - 1] != "*")
)


@given(WILDCARDS, st.text("ab*\\", max_size=8))
def test_a_wildcard_fits_what_trying_every_way_fits(wildcard: str, text: str) -> None:
    assert holds([{"wildcard": wildcard}], text) is fits_naively(wildcard, text)


@pytest.mark.timeout(5)
def test_a_wildcard_of_many_stars_takes_no_longer_than_its_text() -> None:
    assert not holds([{"wildcard": "*a" * 15 + "*b"}], "a" * 100_000)
    assert not holds([{"wildcard": "*" + ("a" * 250 + "b*") * 15}], "a" * 1_000_000)


ATTRIBUTES: list[tuple[dict[str, Any], bool]] = [
    ({"type": ["a.b"]}, True),
    ({"type": [{"prefix": "b"}]}, False),
    ({"source": [{"wildcard": "/*"}]}, True),
    ({"specversion": ["1.0"]}, True),
    ({"specversion": [1.0]}, False),
    ({"subject": [{"exists": False}]}, True),
    ({"subject": ["x"]}, False),
    ({"subject": [None]}, False),
    ({"count": [3]}, True),
    ({"count": ["3"]}, False),
    ({"count": [{"numeric": [">", 2]}]}, True),
    ({"flag": [True]}, True),
    ({"flag": ["true"]}, False),
    ({"flag": [1]}, False),
    ({"other": [{"exists": False}]}, True),
    ({"other": [{"anything-but": "x"}]}, False),
    ({"extensions": [{"exists": True}]}, False),
    ({"type": ["a.b"], "count": [3], "flag": [True]}, True),
    ({"type": ["a.b"], "count": [4], "flag": [True]}, False),
]


@pytest.mark.parametrize(("pattern", "expected"), ATTRIBUTES, ids=[str(case[0]) for case in ATTRIBUTES])
def test_a_pattern_sees_attributes_as_their_json_values(pattern: dict[str, Any], *, expected: bool) -> None:
    event = new_event("a.b", source="/s", extensions={"count": 3, "flag": True})
    assert compile_filters([{"pattern": pattern}]).matches(event) is expected


def carrying(**changes: Any) -> Event:
    return Event(**{"id": "1", "source": "/", "type": "a", "data": {"x": 1}, **changes})


@pytest.mark.parametrize(
    ("event", "seen"),
    [
        (carrying(), True),
        (carrying(datacontenttype="application/json"), True),
        (carrying(datacontenttype="Application/JSON; charset=utf-8"), True),
        (carrying(datacontenttype="application/vnd.shop.order+json"), True),
        (carrying(datacontenttype="application/json ;v=1"), True),
        (carrying(datacontenttype="text/plain"), False),
        (carrying(datacontenttype="application/jsonl"), False),
        (carrying(datacontenttype="application/x-json-seq"), False),
        (carrying(datacontenttype="text/xml;a=application/json"), False),
        (Event(id="1", source="/", type="a"), False),
        (Event(id="1", source="/", type="a", data_base64="eyJ4IjoxfQ=="), False),
        (Event(id="1", source="/", type="a", data_base64="eyJ4IjoxfQ==", datacontenttype="application/json"), False),
        (carrying(data=None), False),
        (carrying(data="x"), False),
    ],
)
def test_data_is_there_where_it_is_json(event: Event, *, seen: bool) -> None:
    assert compile_filters([{"pattern": {"data": {"x": [1]}}}]).matches(event) is seen
    assert compile_filters([{"pattern": {"data": {"x": [{"exists": False}]}}}]).matches(event) is not seen


@pytest.mark.parametrize(
    ("wanted", "data", "expected"),
    [
        (["x"], "x", True),
        ([None], None, True),
        ([5], [4, 5], True),
        ([5], {"5": 5}, False),
        ([{"exists": True}], 0, True),
        ([{"exists": True}], {"x": 1}, False),
    ],
)
def test_data_itself_may_be_a_value(wanted: list[Any], data: Any, *, expected: bool) -> None:
    event = new_event("a", source="/", data=data)
    assert compile_filters([{"pattern": {"data": wanted}}]).matches(event) is expected


def nested(depth: int, make: Callable[[Any], Any], innermost: Any) -> Any:
    for _ in range(depth):
        innermost = make(innermost)
    return innermost


@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: {"x": inner}, lambda inner: [{"x": [inner]}]])
@pytest.mark.parametrize(
    "wanted",
    [
        {"x": ["a"]},
        {"x": [{"exists": False}, "a"]},
        {"x": {"x": {"x": [{"anything-but": "b"}]}}},
        {"x": [{"exists": True}]},
    ],
)
def test_data_that_nests_deeper_than_python_can_recurse_is_no_trouble(
    make: Callable[[Any], Any], wanted: dict[str, Any]
) -> None:
    event = Event(id="1", source="/", type="a", data={"x": nested(5000, make, "a")})
    compiled = compile_filters([{"pattern": {"data": wanted}}])
    assert compiled.matches(event) is (compiled.explain(event) == [])


EXPLAINED: list[tuple[Any, Any, str]] = [
    (["a"], "b", "data.x is 'b', which is not 'a'"),
    ([5, "a"], True, "data.x is true, which is not 5 and is not 'a'"),
    ([{"prefix": "a"}, {"suffix": "b"}], 1.5, "data.x is 1.5, which does not start with 'a' and does not end with 'b'"),
    ([{"prefix": {"equals-ignore-case": "a"}}], "b", "data.x is 'b', which does not start with 'a' in any case"),
    ([{"suffix": {"equals-ignore-case": "a"}}], "b", "data.x is 'b', which does not end with 'a' in any case"),
    ([{"equals-ignore-case": "a"}], None, "data.x is null, which is not 'a' in any case"),
    ([{"anything-but": "a"}], "a", "data.x is 'a', which is ruled out by anything-but"),
    ([{"numeric": [">", 0, "<=", 5]}], 6, "data.x is 6, which is no number > 0 and <= 5"),
    ([{"cidr": "10.0.0.1/8"}], "x", "data.x is 'x', which is no address in 10.0.0.0/8"),
    ([{"wildcard": "a*"}], "b", "data.x is 'b', which does not fit the wildcard 'a*'"),
    ([{"exists": False}], "b", "data.x is 'b', which is not missing"),
    ([{"exists": True}], MISSING, "data.x is missing"),
    (["a"], MISSING, "data.x is missing"),
    (["a"], [], "data.x is missing"),
    (["a"], {"y": 1}, "data.x is an object, and has no value"),
    (["a"], ["b", "c"], "data.x has the values 'b', 'c', each of which is not 'a'"),
    (["a"], list("bcdef"), "data.x has the values 'b', 'c', 'd' and 2 more, each of which is not 'a'"),
    (["a"], 10**5000, "data.x is inf, which is not 'a'"),
    (
        list("abcdefg"),
        0,
        (
            "data.x is 0, which is not 'a' and is not 'b' and is not 'c' and is not 'd' and is not 'e' "
            "and fits none of the 2 others"
        ),
    ),
]


@pytest.mark.parametrize(("wanted", "value", "reason"), EXPLAINED, ids=[str(case[0]) for case in EXPLAINED])
def test_a_value_that_does_not_fit_is_explained(wanted: Any, value: Any, reason: str) -> None:
    (clause,) = compile_filters([{"pattern": {"data": {"x": wanted}}}]).explain(of(value))
    assert clause.path == "filters[0].pattern.data.x"
    assert clause.reason == reason


def test_a_field_with_an_odd_name_is_told_apart_in_the_explanation() -> None:
    pattern = {"data": {"a.b": {"c\n": [1], "d" * 4000: [1]}}}
    odd, long = compile_filters([{"pattern": pattern}]).explain(new_event("a", source="/", data={}))
    assert (odd.path, odd.reason) == (
        'filters[0].pattern.data["a.b"]["c\\n"]',
        'data["a.b"]["c\\n"] is missing',
    )
    assert len(long.reason) < 200
