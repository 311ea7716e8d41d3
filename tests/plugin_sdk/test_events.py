import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk.errors import InvalidEventError
from plugin_sdk.events import Event, new_event

GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b"}

BAD = [
    ("no id", {"id": None}, "id"),
    ("empty id", {"id": ""}, "id"),
    ("id is a number", {"id": 5}, "id"),
    ("no source", {"source": None}, "source"),
    ("source with a blank", {"source": "/a b"}, "source"),
    ("source that is no URI", {"source": "http://[::1"}, "source"),
    ("no type", {"type": None}, "type"),
    ("type with a control character", {"type": "a\u0007"}, "type"),
    ("type with a non-character", {"type": "a\ufffe"}, "type"),
    ("subject with a lone surrogate", {"subject": "\ud800"}, "subject"),
    ("empty subject", {"subject": ""}, "subject"),
    ("other version", {"specversion": "0.3"}, "specversion"),
    ("no version", {"specversion": None}, "specversion"),
    ("bad time", {"time": "yesterday"}, "time"),
    ("time without offset", {"time": "2026-11-20T10:00:00"}, "time"),
    ("time that is none", {"time": "2026-13-20T10:00:00Z"}, "time"),
    ("bad media type", {"datacontenttype": "json"}, "datacontenttype"),
    ("relative dataschema", {"dataschema": "/x"}, "dataschema"),
    ("upper-case extension", {"Ext": "x"}, "Ext"),
    ("extension too large", {"ext": 2**31}, "ext"),
    ("extension is a fraction", {"ext": 1.5}, "ext"),
    ("extension is a list", {"ext": []}, "ext"),
    ("both payloads", {"data": 1, "data_base64": "AA=="}, "data_base64"),
    ("bad base64", {"data_base64": "A?"}, "data_base64"),
]


@pytest.mark.parametrize(("changes", "attribute"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_malformed_event_is_refused_and_the_attribute_is_named(changes, attribute):
    with pytest.raises(InvalidEventError) as refused:
        Event.from_json(json.dumps({**GOOD, **changes}))
    assert refused.value.attribute == attribute


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"id":1,"id":2}',
        b'{"data":{"a":1,"a":2}}',
        b'{"data":NaN}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_strict_json_object_is_refused(body):
    with pytest.raises(InvalidEventError) as refused:
        Event.from_json(body)
    assert refused.value.attribute == "body"


def test_data_that_nests_too_deep_is_refused():
    deep = "[" * 70 + "]" * 70
    with pytest.raises(InvalidEventError, match="nests deeper"):
        Event.from_json(json.dumps(GOOD)[:-1] + f', "data": {deep}}}')


def test_a_null_attribute_is_an_absent_one_and_null_data_is_data():
    event = Event.from_json(json.dumps({**GOOD, "subject": None, "data": None}))
    assert event.subject is None
    assert event.data is None
    assert "data" in json.loads(event.to_json())
    assert "data" not in json.loads(Event.from_json(json.dumps(GOOD)).to_json())


texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(texts, texts, values, st.dictionaries(st.from_regex("x[a-z0-9]{0,8}", fullmatch=True), texts | st.booleans()))
def test_an_event_survives_the_trip_through_json_both_the_strict_and_the_trusting_way(id_, subject, data, extensions):
    event = new_event("a.b", source="/s", id=id_, subject=subject, data=data, extensions=extensions)
    assert Event.from_json(event.to_json()) == event
    assert Event.trusted(event.to_json()) == event


def test_binary_data_is_handed_out_decoded():
    assert Event.from_json(json.dumps({**GOOD, "data_base64": "AAH/"})).content == b"\x00\x01\xff"


def test_fresh_ids_are_uuids_of_version_7_and_sort_by_the_time_they_were_made():
    import uuid

    from plugin_sdk.events import new_id

    ids = [new_id() for _ in range(1000)]
    assert {uuid.UUID(one).version for one in ids} == {7}
    assert {uuid.UUID(one).variant for one in ids} == {uuid.RFC_4122}
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)
    assert len(set(ids)) == 1000


ATTRIBUTES = st.fixed_dictionaries(
    {"specversion": st.sampled_from(["1.0", "0.3", None])},
    optional={
        "id": st.sampled_from(["1", "", "ü", "a\x00", 5, None]) | st.text(max_size=3),
        "source": st.sampled_from(["/s", "", "a b", "http://[", 5, None]),
        "type": st.sampled_from(["a.b", "", "\x7f", [], None]),
        "subject": st.sampled_from(["x", "", "é", 1, None]),
        "time": st.sampled_from(["2026-11-20T10:00:00Z", "2026-13-20T10:00:00Z", "now", "", 5, None]),
        "datacontenttype": st.sampled_from(["application/json", "text/plain", "nothing", "", None]),
        "data": st.sampled_from([None, 1, {"a": [1]}, [[[]]]]),
        "data_base64": st.sampled_from(["AA==", "?", None]),
        "dataschema": st.sampled_from(["urn:x", "x", None]),
        "traceparent": st.sampled_from(["00-1-1-00", 5, True, [], None]),
    },
)


@given(ATTRIBUTES)
def test_the_short_way_for_ordinary_events_agrees_with_the_long_one(found: dict[str, Any]) -> None:
    quick = Event._ordinary(found)
    if quick is not None:
        assert quick == Event._checked(found)


@pytest.mark.parametrize(
    "data",
    [
        float("nan"),
        {"n": float("inf")},
        "\ud800",
        {"\udcff": 1},
        [10**4300],
        {"a": object()},
        [[[float("-inf")]], None],
    ],
    ids=[str(number) for number in range(7)],
)
def test_data_that_no_reader_of_json_could_hold_is_no_event(data):
    with pytest.raises(InvalidEventError) as refused:
        new_event("a.b", source="/s", data=data)
    assert refused.value.attribute == "data"


@pytest.mark.parametrize(
    ("hops", "counted"),
    [(3, 3), ("3", 3), (-1, 0), ("x", 0), ("9" * 30, 2**31 - 1), ("9" * 5000, 0), (True, 1), ("1e3", 0)],
)
def test_hops_are_a_number_that_fits_into_every_message(hops, counted):
    assert new_event("a.b", source="/s", extensions={"hops": hops}).hops == counted
