from typing import Any

import pytest

from plugin_sdk.errors import DescriptionError
from plugin_sdk.events import new_event
from plugin_sdk.filters import FilterError, compile_filters
from plugin_sdk.filters.positions import MAX_DEPTH, MAX_NODES, MAX_TEXT


def pattern(**fields: Any) -> list[dict[str, Any]]:
    return [{"pattern": {"data": fields}}]


def values(*found: Any) -> list[dict[str, Any]]:
    return [{"pattern": {"data": {"x": list(found)}}}]


X = "filters[0].pattern.data.x"
REFUSED: list[tuple[Any, str, str]] = [
    # the list and its filters
    ({"exact": {"type": "a"}}, "filters", "must be an array of filters"),
    ("exact", "filters", "must be an array of filters"),
    (["exact"], "filters[0]", "must be an object with exactly one key, the dialect, not a string"),
    ([{}], "filters[0]", "must be an object with exactly one key, the dialect, not an empty object"),
    (
        [{"exact": {"type": "a"}, "prefix": {"type": "a"}}],
        "filters[0]",
        "must be an object with exactly one key, the dialect, not an object with 2 keys",
    ),
    ([{"exact": {"type": "a"}}, None], "filters[1]", "must be an object with exactly one key, the dialect, not null"),
    (
        [{"prefx": {"type": "a"}}],
        "filters[0].prefx",
        "there is no such dialect. Did you mean 'prefix'? There are: all, any, exact, not, pattern, prefix, suffix",
    ),
    ([{"sql": "x"}], "filters[0].sql", "there is no such dialect. There are: all, any"),
    ([{"a b": {}}], 'filters[0]["a b"]', "there is no such dialect"),
    ([{5: {}}], "filters[0]", "the dialect must be a string, not a number"),
    ([{"": {}}], "filters[0]", "the dialect must not be empty"),
    # exact, prefix, suffix
    ([{"exact": {}}], "filters[0].exact", "must be a non-empty object of attributes, not an empty object"),
    ([{"prefix": ["type"]}], "filters[0].prefix", "must be a non-empty object of attributes, not an array"),
    ([{"suffix": "type"}], "filters[0].suffix", "must be a non-empty object of attributes, not a string"),
    ([{"exact": {"type": ""}}], "filters[0].exact.type", "the value must not be empty"),
    ([{"exact": {"type": 5}}], "filters[0].exact.type", "the value must be a string, not a number"),
    ([{"exact": {"type": None}}], "filters[0].exact.type", "the value must be a string, not null"),
    ([{"exact": {"flag": True}}], "filters[0].exact.flag", "the value must be a string, not true"),
    ([{"exact": {"type": ["a"]}}], "filters[0].exact.type", "the value must be a string, not an array"),
    ([{"exact": {"": "a"}}], "filters[0].exact", "a name must not be empty"),
    ([{"exact": {1: "a"}}], "filters[0].exact", "a name must be a string, not a number"),
    ([{"exact": {"Type": "a"}}], "filters[0].exact.Type", "is no name of an attribute: those have lower-case letters"),
    ([{"exact": {"data_base64": "a"}}], "filters[0].exact.data_base64", "is no name of an attribute"),
    ([{"exact": {"data.x": "a"}}], 'filters[0].exact["data.x"]', "is no name of an attribute"),
    ([{"exact": {"type\n": "a"}}], 'filters[0].exact["type\\n"]', "is no name of an attribute"),
    ([{"exact": {"data": "a"}}], "filters[0].exact.data", "is no attribute: the dialect 'pattern' reaches into data"),
    ([{"exact": {"type": "a", "source": ""}}], "filters[0].exact.source", "the value must not be empty"),
    # all, any, not
    ([{"all": []}], "filters[0].all", "must be a non-empty array of filters, not an empty array"),
    ([{"any": []}], "filters[0].any", "must be a non-empty array of filters, not an empty array"),
    ([{"any": {"exact": {"type": "a"}}}], "filters[0].any", "must be a non-empty array of filters, not an object"),
    ([{"not": [{"exact": {"type": "a"}}]}], "filters[0].not", "must be an object with exactly one key, the dialect"),
    (
        [{"all": [{"exact": {"id": "1"}}, {"prefix": {"type": ""}}]}],
        "filters[0].all[1].prefix.type",
        "the value must not be empty",
    ),
    ([{"not": {"any": [{"exactt": {}}]}}], "filters[0].not.any[0].exactt", "Did you mean 'exact'?"),
    # pattern: its objects
    ([{"pattern": {}}], "filters[0].pattern", "must be a non-empty object of fields, not an empty object"),
    ([{"pattern": ["a"]}], "filters[0].pattern", "must be a non-empty object of fields, not an array"),
    ([{"pattern": {"Type": ["a"]}}], "filters[0].pattern.Type", "is no name of an attribute"),
    ([{"pattern": {"data_base64": ["a"]}}], "filters[0].pattern.data_base64", "is no name of an attribute"),
    (
        [{"pattern": {"type": {"prefix": "a"}}}],
        "filters[0].pattern.type",
        (
            "must be a non-empty array of values, for an attribute has no fields, not an object; "
            "put a single value or operator in [ ]"
        ),
    ),
    ([{"pattern": {"type": "a"}}], "filters[0].pattern.type", "must be a non-empty array of values"),
    ([{"pattern": {"type": []}}], "filters[0].pattern.type", "must be a non-empty array of values, not an empty array"),
    ([{"pattern": {"data": {}}}], "filters[0].pattern.data", "must be a non-empty object of fields, not an empty"),
    ([{"pattern": {"data": 5}}], "filters[0].pattern.data", "must be an array of values or an object of fields"),
    (pattern(x="a"), X, "must be an array of values or an object of fields, not a string; put a value in [ ]"),
    (pattern(x=None), X, "must be an array of values or an object of fields, not null"),
    (
        pattern(x={"prefix": "a"}),
        f"{X}.prefix",
        "not a string; if 'prefix' is meant as an operator, put the object around it in [ ]",
    ),
    (pattern(x={}), X, "must be a non-empty object of fields, not an empty object"),
    (pattern(x=[]), X, "must be a non-empty array of values, not an empty array"),
    (pattern(**{"a b": "x"}), 'filters[0].pattern.data["a b"]', "must be an array of values"),
    # pattern: $or
    ([{"pattern": {"$or": {"type": ["a"]}}}], "filters[0].pattern.$or", "must be an array of at least 2 of patterns"),
    ([{"pattern": {"$or": [{"type": ["a"]}]}}], "filters[0].pattern.$or", "must be an array of at least 2 of patterns"),
    (
        [{"pattern": {"$or": [{"type": ["a"]}, 5]}}],
        "filters[0].pattern.$or[1]",
        "must be a non-empty object of fields, not a number",
    ),
    (
        pattern(**{"$or": [{"x": [1]}, {"numeric": [5]}]}),
        "filters[0].pattern.data.$or[1].numeric",
        "'numeric' is an operator, and no field's name under $or",
    ),
    (
        [{"pattern": {"$or": [{"exists": [True]}, {"type": ["a"]}]}}],
        "filters[0].pattern.$or[0].exists",
        "'exists' is an operator",
    ),
    (pattern(**{"$or": [{"x": []}, {"y": [1]}]}), "filters[0].pattern.data.$or[0].x", "must be a non-empty array"),
    # values of a pattern
    (values([1]), f"{X}[0]", "must be a string, a number, true, false, null or an operator, not an array"),
    (values("a", {}), f"{X}[1]", "must be an object with exactly one key, the operator, not an empty object"),
    (values({"prefix": "a", "suffix": "b"}), f"{X}[0]", "exactly one key, the operator, not an object with 2 keys"),
    (values({"prefixx": "a"}), f"{X}[0].prefixx", "there is no such operator. Did you mean 'prefix'? There are: any"),
    (values({"exact": "a"}), f"{X}[0].exact", "there is no such operator"),
    (values(float("nan")), f"{X}[0]", "must be a finite number"),
    (values(float("-inf")), f"{X}[0]", "must be a finite number"),
    (values(10**400), f"{X}[0]", "must be a finite number in the range of IEEE 754 doubles"),
    (values(b"x"), f"{X}[0]", "must be a string, a number, true, false, null or an operator, not a bytes"),
    (values({"prefix": 5}), f"{X}[0].prefix", "the text must be a string, not a number"),
    (values({"suffix": ["a"]}), f"{X}[0].suffix", "the text must be a string, not an array"),
    (values({"prefix": {"wildcard": "a"}}), f"{X}[0].prefix.wildcard", "There is: equals-ignore-case"),
    (values({"prefix": {}}), f"{X}[0].prefix", "exactly one key, 'equals-ignore-case', not an empty object"),
    (
        values({"suffix": {"equals-ignore-case": 5}}),
        f"{X}[0].suffix.equals-ignore-case",
        "the text must be a string, not a number",
    ),
    (values({"equals-ignore-case": None}), f"{X}[0].equals-ignore-case", "the text must be a string, not null"),
    (values({"anything-but": []}), f"{X}[0].anything-but", "must be a non-empty array of values"),
    (values({"anything-but": [["a"]]}), f"{X}[0].anything-but[0]", "must be a string, a number"),
    (values({"anything-but": ["a", {"prefix": "b"}]}), f"{X}[0].anything-but[1]", "not an object"),
    (values({"anything-but": {}}), f"{X}[0].anything-but", "exactly one key, the operator, not an empty object"),
    (
        values({"anything-but": {"numeric": [">", 5]}}),
        f"{X}[0].anything-but.numeric",
        "there is no such operator under anything-but. There are: equals-ignore-case, prefix, suffix, wildcard",
    ),
    (values({"anything-but": {"prefix": []}}), f"{X}[0].anything-but.prefix", "must be a non-empty array of strings"),
    (values({"anything-but": {"prefix": ""}}), f"{X}[0].anything-but.prefix", "the text must not be empty"),
    (values({"anything-but": {"suffix": ["a", ""]}}), f"{X}[0].anything-but.suffix[1]", "the text must not be empty"),
    (values({"anything-but": {"prefix": ["a", 5]}}), f"{X}[0].anything-but.prefix[1]", "must be a string"),
    (
        values({"anything-but": {"prefix": {"equals-ignore-case": "a"}}}),
        f"{X}[0].anything-but.prefix",
        "the text must be a string, not an object",
    ),
    (values({"anything-but": {"wildcard": "a**"}}), f"{X}[0].anything-but.wildcard", "two stars in a row"),
    (values({"numeric": []}), f"{X}[0].numeric", "must be an array of one or two comparisons, each with its number"),
    (values({"numeric": 5}), f"{X}[0].numeric", "must be an array of one or two comparisons"),
    (values({"numeric": "=5"}), f"{X}[0].numeric", "must be an array of one or two comparisons"),
    (values({"numeric": [">"]}), f"{X}[0].numeric", "must be an array of one or two comparisons"),
    (values({"numeric": [">", 0, "<"]}), f"{X}[0].numeric", "must be an array of one or two comparisons"),
    (values({"numeric": [">", 0, "<", 5, "=", 3]}), f"{X}[0].numeric", "must be an array of one or two comparisons"),
    (values({"numeric": ["==", 5]}), f"{X}[0].numeric[0]", "must be one of the comparisons =, >, >=, <, <="),
    (
        values({"numeric": [5, ">"]}),
        f"{X}[0].numeric[0]",
        "must be one of the comparisons =, >, >=, <, <=, not a number",
    ),
    (values({"numeric": [[], 5]}), f"{X}[0].numeric[0]", "must be one of the comparisons"),
    (values({"numeric": [">", "5"]}), f"{X}[0].numeric[1]", "must be a number, not a string"),
    (values({"numeric": [">", True]}), f"{X}[0].numeric[1]", "must be a number, not true"),
    (values({"numeric": [">", 0, "<", None]}), f"{X}[0].numeric[3]", "must be a number, not null"),
    (values({"numeric": ["<", 10**400]}), f"{X}[0].numeric[1]", "must be a finite number"),
    (values({"numeric": ["=", 5, "<", 6]}), f"{X}[0].numeric", "must be a lower bound (> or >=) and an upper one"),
    (values({"numeric": [">", 5, ">=", 6]}), f"{X}[0].numeric", "must be a lower bound (> or >=) and an upper one"),
    (values({"numeric": ["<", 5, "<=", 6]}), f"{X}[0].numeric", "must be a lower bound (> or >=) and an upper one"),
    (values({"numeric": [">", 6, "<", 5]}), f"{X}[0].numeric", "no number is > 6 and < 5"),
    (values({"numeric": [">", 5, "<=", 5]}), f"{X}[0].numeric", "no number is > 5 and <= 5"),
    (values({"numeric": ["<", 5, ">=", 5]}), f"{X}[0].numeric", "no number is >= 5 and < 5"),
    (values({"cidr": 5}), f"{X}[0].cidr", "the network must be a string, not a number"),
    (values({"cidr": ""}), f"{X}[0].cidr", "the network must not be empty"),
    *(
        (values({"cidr": text}), f"{X}[0].cidr", "must be a network with its prefix length, such as '10.0.0.0/8'")
        for text in (
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0.0/255.0.0.0",
            "10.0.0/8",
            "::/129",
            "fe80::1%eth0/64",
            "example.com/8",
            "10.0.0.0/\u0661",
        )
    ),
    (values({"exists": "yes"}), f"{X}[0].exists", "must be true or false, not a string"),
    (values({"exists": 1}), f"{X}[0].exists", "must be true or false, not a number"),
    (values({"exists": None}), f"{X}[0].exists", "must be true or false, not null"),
    (values({"wildcard": 5}), f"{X}[0].wildcard", "the text must be a string, not a number"),
    (values({"wildcard": "a**b"}), f"{X}[0].wildcard", "must not have two stars in a row"),
    (values({"wildcard": "a\\b"}), f"{X}[0].wildcard", "has a backslash that escapes nothing"),
    (values({"wildcard": "a\\"}), f"{X}[0].wildcard", "has a backslash that escapes nothing"),
    (values({"wildcard": "*a" * 17}), f"{X}[0].wildcard", "must have at most 16 stars, not 17"),
]


@pytest.mark.parametrize(("filters", "path", "why"), REFUSED, ids=[str(case[0])[:80] for case in REFUSED])
def test_what_the_language_does_not_allow_is_refused_where_it_stands(filters: Any, path: str, why: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filters(filters)
    assert refused.value.code == "filter_invalid"
    assert refused.value.path == path
    assert str(refused.value).startswith(f"{path}: ")
    assert why in str(refused.value)
    assert isinstance(refused.value, DescriptionError)


def negations(count: int) -> dict[str, Any]:
    one: dict[str, Any] = {"exact": {"type": "a"}}
    for _ in range(count):
        one = {"not": one}
    return one


def nested(depth: int) -> dict[str, Any]:
    fields: Any = ["a"]
    for _ in range(depth):
        fields = {"x": fields}
    return {"pattern": {"data": fields}}


MANY = [str(number) for number in range(MAX_NODES)]


@pytest.mark.parametrize(
    ("within", "beyond", "why"),
    [
        ([negations(MAX_DEPTH - 1)], [negations(MAX_DEPTH)], "nest at most 32 levels deep"),
        ([nested(MAX_DEPTH - 2)], [nested(MAX_DEPTH - 1)], "nest at most 32 levels deep"),
        ([{"exact": {"type": "a" * MAX_TEXT}}], [{"exact": {"type": "a" * (MAX_TEXT + 1)}}], "at most 4096 characters"),
        (values("a" * MAX_TEXT), values("a" * (MAX_TEXT + 1)), "at most 4096 characters, not 4097"),
        (pattern(**{"a" * MAX_TEXT: [1]}), pattern(**{"a" * (MAX_TEXT + 1): [1]}), "at most 4096 characters"),
        ([{"exact": {"a" * MAX_TEXT: "a"}}], [{"exact": {"a" * (MAX_TEXT + 1): "a"}}], "at most 4096 characters"),
        (values({"wildcard": "*a" * 16}), values({"wildcard": "*a" * 17}), "at most 16 stars"),
        (values(*MANY[:-3]), values(*MANY[:-2]), "at most 1000 filters, attributes, fields and values in all"),
        ([{"exact": {"id": "1"}}] * 500, [{"exact": {"id": "1"}}] * 501, "at most 1000 filters"),
        (
            [{"exact": dict.fromkeys([f"a{name}" for name in MANY[:-1]], "1")}],
            [{"exact": dict.fromkeys([f"a{name}" for name in MANY], "1")}],
            "at most 1000 filters",
        ),
        (
            values({"anything-but": MANY[:-4]}),
            values({"anything-but": MANY[:-3]}),
            "at most 1000 filters",
        ),
        (
            values({"anything-but": {"prefix": MANY[:-4]}}),
            values({"anything-but": {"prefix": MANY[:-3]}}),
            "at most 1000 filters",
        ),
    ],
)
def test_what_stands_on_the_bound_is_allowed_and_what_is_beyond_it_refused(
    within: list[Any], beyond: list[Any], why: str
) -> None:
    compiled = compile_filters(within)
    event = new_event("a", source="/", data={})
    assert compiled.matches(event) is (compiled.explain(event) == [])
    with pytest.raises(FilterError, match=why):
        compile_filters(beyond)


def shared(count: int) -> list[dict[str, Any]]:
    """So many `$or` that meet in the field `x.y`: together they have two to the power of `count` alternatives."""
    fields: dict[str, Any] = {"z": [0]}
    for number in range(count):
        choice = [{"y": {f"a{number}": [1]}}, {"y": {f"b{number}": [1]}}]
        fields = {"x": {"$or": choice}, "$or": [fields, {"z": [number]}]}
    return [{"pattern": {"data": fields}}]


def test_choices_that_multiply_out_too_far_are_refused() -> None:
    compile_filters(shared(5))
    with pytest.raises(FilterError, match="multiplies out to more than 4000 conditions") as refused:
        compile_filters(shared(20))
    assert refused.value.path.startswith("filters[0].pattern.data")


def test_explaining_again_and_again_does_not_use_up_the_bound() -> None:
    compiled = compile_filters(shared(5))
    event = new_event("a", source="/", data={"x": [{"y": {f"a{number}": 1}} for number in range(5)], "z": 0})
    first = compiled.explain(event)
    assert any("not all of them in the same element of an array" in clause.reason for clause in first)
    for _ in range(50):
        assert compiled.explain(event) == first


def test_filters_that_contain_themselves_are_refused() -> None:
    one: dict[str, Any] = {}
    one["not"] = one
    with pytest.raises(FilterError, match="nest at most 32 levels deep"):
        compile_filters([one])
    fields: dict[str, Any] = {}
    fields["x"] = fields
    with pytest.raises(FilterError, match="nest at most 32 levels deep"):
        compile_filters([{"pattern": {"data": fields}}])
