"""What is remembered of events is short: whoever sends one chooses its attributes, and may choose megabytes."""

import urllib.parse

import pytest

from host.routing import attempts
from plugin_sdk import events
from plugin_sdk.errors import InvalidEventError
from plugin_sdk.events import Event
from plugin_sdk.filters import attributes, compile_filters

LONG = 2**20


def given(**more):
    return {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **more}


@pytest.fixture(autouse=True)
def forgotten():
    for cache in (events._well_formed, attributes._is_json, attempts._parsed, urllib.parse.urlsplit):
        cache.cache_clear()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("source", "/" + "x" * LONG), ("dataschema", "https://example.com/" + "x" * LONG), ("source", "/\u00e9" * LONG)],
)
def test_a_long_reference_is_well_formed_and_remembered_by_its_beginning(attribute, value):
    assert getattr(Event.from_attributes(given(**{attribute: value})), attribute) == value
    kept = events._well_formed.cache_info().currsize + urllib.parse.urlsplit.cache_info().currsize
    for number in range(20):
        Event.from_attributes(given(**{attribute: value + str(number)}))
    assert events._well_formed.cache_info().currsize + urllib.parse.urlsplit.cache_info().currsize == kept


@pytest.mark.parametrize(
    "source", ["/" + "x" * LONG + " ", "/" + "x" * LONG + "<", "http://[" + "x" * LONG, "x" * LONG + "{}"]
)
def test_a_long_reference_that_is_malformed_is_refused(source):
    with pytest.raises(InvalidEventError, match="URI-reference"):
        Event.from_attributes(given(source=source))


def test_a_long_media_type_is_none_of_json_and_not_remembered():
    filters = compile_filters([{"pattern": {"data": {"a": ["b"]}}}])
    event = Event.from_attributes(given(datacontenttype="application/json;a=" + "x" * LONG, data={"a": "b"}))
    assert not filters.matches(event)
    assert attributes._is_json.cache_info().currsize == 0


def test_a_long_expiry_time_is_no_instant_and_not_remembered():
    assert attempts._instant("2026-01-01T00:00:00Z") is not None
    assert attempts._instant("2026-01-01T00:00:00Z" + " " * LONG) is None
    assert attempts._parsed.cache_info().currsize == 1
