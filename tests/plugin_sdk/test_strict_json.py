"""The strict reader and writer of JSON: what one lets in the other writes, and nobody else reads it differently."""

import json
import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugin_sdk.strict_json import (
    MAX_DEPTH,
    MAX_DIGITS,
    StrictJsonError,
    TooManyItemsError,
    dumps,
    loads,
    loads_items,
    too_deep,
)


def nested(depth, inner=""):
    return "[" * depth + inner + "]" * depth


REFUSED = [
    (r'"\ud800"', (), "surrogate"),
    (r'"\udc00"', (), "surrogate"),
    (r'"a\ud800b"', (), "surrogate"),
    (r'"\ud800\ud800"', (), "surrogate"),
    (r'"\udc00\ud800"', (), "surrogate"),
    (r'{"a":[1,{"b":"\ud800"}]}', ("a", 1, "b"), "surrogate"),
    (r'{"a":{"\ud800":1}}', ("a",), "no Unicode"),
    ("1e400", (), "1e400"),
    ("-1E400", (), "beyond"),
    ('{"n":1e309}', ("n",), "1e309"),
    ('{"n":' + "1" * 400 + ".5}", ("n",), "beyond"),
    ("NaN", (), "NaN"),
    ('{"a":[Infinity]}', ("a", 0), "Infinity"),
    ("-Infinity", (), "-Infinity"),
    ('{"a":1,"a":1}', (), "'a' twice"),
    ('{"a":1,"\\u0061":2}', (), "'a' twice"),
    ('{"x":[{"a":{},"b":1, "a":{}}]}', ("x", 0), "'a' twice"),
    ("1" * (MAX_DIGITS + 1), (), f"{MAX_DIGITS + 1} digits"),
    ("-" + "9" * 5000, (), "5000 digits"),
    ('{"n":[' + "1" * 4301 + "]}", ("n", 0), "4301 digits"),
    ("", (), "no JSON"),
    ("{", (), "no JSON"),
    ("[1,]", (), "no JSON"),
    ("{'a':1}", (), "no JSON"),
    ("01", (), "no JSON"),
    ("1 2", (), "no JSON"),
    ('"a\tb"', (), "no JSON"),
    ('"a\0b"', (), "no JSON"),
    ("\ufeff{}", (), "no JSON"),
    (nested(MAX_DEPTH + 1), (), "deeper"),
    (nested(100_000), (), "deeper"),
    ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), (), "deeper"),
]


@pytest.mark.parametrize(("text", "path", "why"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_readers_of_json_disagree_on_is_refused_with_where_and_why(text, path, why):
    for given_as in (text, text.encode()):
        with pytest.raises(StrictJsonError, match=why) as refused:
            loads(given_as)
        assert refused.value.path == path
        str(refused.value).encode()  # the sentence can be shown


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b'"\xff"', ()),
        (b'{"a":"\xed\xa0\x80"}', ("a",)),
        (b'{"a":["\xc0\xaf"]}', ("a", 0)),
        (b'"\xf5\x80\x80\x80"', ()),
    ],
)
def test_bytes_that_are_no_utf8_are_refused_where_they_stand(text, path):
    with pytest.raises(StrictJsonError, match="no UTF-8") as refused:
        loads(text)
    assert refused.value.path == path


def test_a_surrogate_that_is_in_the_text_itself_is_refused():
    with pytest.raises(StrictJsonError, match="surrogate"):
        loads('{"a":"\ud800"}')


TAKEN = [
    ("1" * MAX_DIGITS, int("1" * MAX_DIGITS)),
    ("-" + "9" * MAX_DIGITS, -int("9" * MAX_DIGITS)),
    ("18446744073709551616", 2**64),
    ('"' + "1" * 5000 + '"', "1" * 5000),
    ("1." + "1" * 5000, 1.1111111111111112),
    ("1e-400", 0.0),
    ("1e308", 1e308),
    ("-0", 0),
    (r'"\ud83d\ude00"', "\U0001f600"),
    (r'"\\ud800"', "\\ud800"),
    (r'"\u0000"', "\0"),
    ('{"a b":1, "ab":2}', {"a b": 1, "ab": 2}),
    (' {\n "a" : [ 1.0e1 ] } ', {"a": [10.0]}),
    (r'{"\u0061":1,"b":{"a":2}}', {"a": 1, "b": {"a": 2}}),
    (nested(MAX_DEPTH), json.loads(nested(MAX_DEPTH))),
]


@pytest.mark.parametrize(("text", "value"), TAKEN, ids=[str(number) for number in range(len(TAKEN))])
def test_what_all_readers_read_alike_is_taken(text, value):
    assert loads(text) == value
    assert loads(text.encode()) == value
    assert loads(dumps(value)) == value


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**MAX_DIGITS) + 1, 10**MAX_DIGITS - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_every_value_that_is_json_survives_in_every_way_to_write_it(value, ascii_only, indent):
    assert loads(dumps(value)) == value
    assert loads(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) == value


@given(st.text(st.sampled_from('{}[]:,"\\ u0dD8eE1a.-+\ud800'), max_size=30))
@example('{"a":"\\ud800"}')
def test_whatever_is_taken_can_be_written_and_the_rest_is_refused_in_one_way(text):
    try:
        found = loads(text)
    except StrictJsonError as error:
        str(error).encode()
    else:
        assert loads(dumps(found)) == found == msgspec.json.decode(dumps(found))


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, ()),
        ({"a": [math.inf]}, ("a", 0)),
        ({"a": [None, -math.inf]}, ("a", 1)),
        ("\ud800", ()),
        ({"a": "\udcff"}, ("a",)),
        ({"\udcff": 1}, ()),
        (10**MAX_DIGITS, ()),
        ([10**5000], (0,)),
        (Odd(), ()),
        ({1: Odd()}, ()),
        ({(1, 2): 3}, ()),
        (json.loads(nested(MAX_DEPTH + 1)), ()),
    ],
    ids=[str(number) for number in range(12)],
)
def test_nothing_is_written_that_would_be_refused_when_it_is_read(value, path):
    with pytest.raises(StrictJsonError) as refused:
        dumps(value)
    assert refused.value.path == path


def test_a_value_that_holds_itself_is_refused():
    value = [Odd()]
    value += [value] * 1000
    with pytest.raises(StrictJsonError):
        dumps(value)
    with pytest.raises(StrictJsonError):
        dumps(value[1:])


def test_an_item_at_fault_is_its_own_error_and_keeps_no_other():
    found = loads_items(
        b'[{"a":1},{"a":"\\ud800"},{"a":1e400},{"a":1,"a":2},{"a":"\xff"},{"a":' + b"1" * 4301 + b'},NaN,{"b":2}]', 10
    )
    assert (found[0], found[-1]) == ({"a": 1}, {"b": 2})
    assert [type(one) for one in found[1:-1]] == [StrictJsonError] * 6
    assert [one.path for one in found[1:-1]] == [("a",), ("a",), (), ("a",), ("a",), ()]


def test_items_that_are_all_sound_are_as_they_were_read():
    assert loads_items(b'[1, "2", {"3": []}]', 3) == [1, "2", {"3": []}]
    assert loads_items(b"[]", 3) == []
    assert loads_items(b'{"a": []}', 3) is None


@pytest.mark.parametrize("text", [b'{"a":"\\ud800"}', b"[1", b"[" * 5000])
def test_what_is_no_array_of_items_at_all_is_refused_whole(text):
    with pytest.raises(StrictJsonError):
        loads_items(text, 3)


@pytest.mark.parametrize("last", [b"4", b'"\\ud800"'])
def test_more_items_than_are_taken_are_refused_before_they_are_looked_at(last):
    with pytest.raises(TooManyItemsError) as refused:
        loads_items(b"[1,2,3," + last + b"]", 3)
    assert refused.value.count == 4


def test_a_fault_behind_more_values_than_are_looked_at_is_refused_without_its_place():
    with pytest.raises(StrictJsonError) as refused:
        loads("[[" + "1," * 100_000 + '"\\ud800"]]')
    assert refused.value.path == ()


def test_depth_counts_arrays_and_objects_and_no_scalars():
    assert not too_deep(1, 0)
    assert too_deep([], 0)
    assert not too_deep([{}], 2)
    assert too_deep([{"a": [1]}], 2)


@given(
    before=st.integers(0, 3 * MAX_DIGITS),
    digits=st.integers(MAX_DIGITS - 2, MAX_DIGITS + 2),
    after=st.integers(0, 9000),
)
def test_an_integer_of_too_many_digits_is_found_wherever_it_stands(before, digits, after):
    """Given text of any length before and after a number, then it is refused exactly where it has too many digits."""
    text = '{"before":"' + "x" * before + '","number":' + "7" * digits + ',"after":"' + "y" * after + '"}'
    if digits <= MAX_DIGITS:
        assert loads(text)["number"] == int("7" * digits)
    else:
        with pytest.raises(StrictJsonError, match=f"{digits} digits"):
            loads(text)
