"""CloudEvents over HTTP: the three modes, and how each kind of bad input is refused by the attribute's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk.errors import InvalidEventError
from plugin_sdk.event_http import (
    UnknownFormatError,
    is_batch,
    is_structured,
    media_type,
    parse_batch,
    parse_binary,
)
from plugin_sdk.events import Event
from plugin_sdk.strict_json import TooManyItemsError

REQUIRED = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/tests", "ce-type": "a.b"}


def binary(content_type=None, body=b"", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_binary({**REQUIRED, **named}.items(), content_type, body)


@pytest.mark.parametrize(
    ("content_type", "batch", "structured"),
    [
        ("application/cloudevents+json", False, True),
        ("Application/CloudEvents+JSON; charset=utf-8", False, True),
        ("application/cloudevents-batch+json", True, False),
        ("APPLICATION/cloudevents-batch+json;charset=UTF-8", True, False),
        ("application/json", False, False),
        ("text/plain", False, False),
        (None, False, False),
    ],
)
def test_the_content_type_alone_tells_the_mode(content_type, batch, structured):
    media = media_type(content_type)
    assert is_batch(media) is batch
    assert batch or is_structured(media) is structured


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+avro", "application/cloudevents", "application/cloudevents+xml"]
)
def test_a_format_that_is_not_json_is_unknown(content_type):
    with pytest.raises(UnknownFormatError, match="application/cloudevents"):
        is_structured(media_type(content_type))
    with pytest.raises(UnknownFormatError):
        is_batch(media_type(content_type.replace("cloudevents", "cloudevents-batch")))


@pytest.mark.parametrize(
    ("content_type", "body", "data", "base64"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}, None),
        ("application/json; charset=utf-8", b"null", None, None),
        ("application/vnd.acme+json", b'"text"', "text", None),
        ("text/plain", "Grüße".encode(), "Grüße", None),
        ("text/plain", b"\xff", ..., "/w=="),
        ("application/octet-stream", b"\x00\x01", ..., "AAE="),
        (None, b"bytes", ..., "Ynl0ZXM="),
        ("application/json", b"", ..., None),
        (None, b"", ..., None),
    ],
)
def test_the_body_is_the_payload_of_its_content_type(content_type, body, data, base64):
    event = binary(content_type, body)
    found = event.attributes()
    assert event.datacontenttype == content_type
    assert found.get("data", ...) == data
    assert found.get("data_base64") == base64


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("%41%42", "AB"),
        ("100%25", "100%"),
        ("%2541", "%41"),
        ('"quoted \\"text\\""', 'quoted "text"'),
        ('"%C3%BC"', "ü"),
        ("€", "€"),
        ("a%", "a%"),
        ("a%zz", "a%zz"),
    ],
)
def test_a_header_is_unquoted_and_then_decoded_once(sent, meant):
    assert binary(ce_subject=sent).subject == meant


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn", "Co")), min_size=1, max_size=30))
def test_what_a_sender_encodes_is_what_the_receiver_reads(text):
    encoded = "".join(
        char if 0x21 <= ord(char) <= 0x7E and char not in '"%' else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )
    assert binary(ce_subject=encoded).subject == text


@pytest.mark.parametrize(
    ("headers", "attribute"),
    [
        ({"ce-id": ""}, "id"),
        ({"ce-source": ""}, "source"),
        ({"ce-type": ""}, "type"),
        ({"ce-specversion": "0.3"}, "specversion"),
        ({"ce-specversion": ""}, "specversion"),
        ({"ce-time": "yesterday"}, "time"),
        ({"ce-dataschema": "no scheme"}, "dataschema"),
        ({"ce-dataschema": "relative"}, "dataschema"),
        ({"ce-subject": "%C0%A0"}, "subject"),
        ({"ce-subject": "%00"}, "subject"),
        ({"ce-subject": "\udcff"}, "subject"),
        ({"ce-datacontenttype": "text/plain"}, "datacontenttype"),
        ({"ce-data": "x"}, "data"),
        ({"ce-data_base64": "eA=="}, "data_base64"),
        ({"ce-my-name": "x"}, "my-name"),
        ({"ce-naïve": "x"}, "naïve"),
        ({"CE-ID": "2"}, "id"),
    ],
)
def test_a_header_that_is_no_attribute_is_refused_by_its_name(headers, attribute):
    with pytest.raises(InvalidEventError) as refused:
        parse_binary({**REQUIRED, **headers}.items(), None, b"")
    assert refused.value.attribute == attribute


@pytest.mark.parametrize("missing", REQUIRED)
def test_every_required_header_is_required(missing):
    headers = {name: value for name, value in REQUIRED.items() if name != missing}
    with pytest.raises(InvalidEventError) as refused:
        parse_binary(headers.items(), None, b"")
    assert refused.value.attribute == missing.removeprefix("ce-")


@pytest.mark.parametrize("body", [b"{", b'{"a": 1, "a": 2}', b"NaN", b"\xff"])
def test_a_payload_that_is_not_what_its_type_says_is_refused(body):
    with pytest.raises(InvalidEventError) as refused:
        binary("application/json", body)
    assert refused.value.attribute == "data"


def test_an_empty_batch_is_a_batch():
    assert parse_batch(b"[]") == []


def test_the_events_of_a_batch_are_checked_each_by_itself():
    good = '{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}'
    found = parse_batch(f'[{good}, {{"specversion": "1.0"}}, 7]'.encode())
    assert [type(one).__name__ for one in found] == ["Event", "InvalidEventError", "InvalidEventError"]
    assert [one.attribute for one in found[1:]] == ["id", "body"]


@pytest.mark.parametrize(
    ("body", "attribute"),
    [
        (b"{}", "body"),
        (b"", "body"),
        (b'[{"specversion": "1.0"}, {"specversion": "0.3"}]', "specversion"),
        (b'[{"specversion": "1.0"}, {}]', "specversion"),
    ],
)
def test_a_batch_that_is_none_is_refused_whole(body, attribute):
    with pytest.raises(InvalidEventError) as refused:
        parse_batch(body)
    assert refused.value.attribute == attribute


FAULTS = [
    r'"data":"\ud800"',
    r'"data":{"\udfff":1}',
    '"data":{"n":1e400}',
    '"data":[NaN]',
    '"data":{"a":1,"a":2}',
    '"data":' + "9" * 4301,
    '"data":' + "[" * 65 + "]" * 65,
    r'"subject":"\ud800"',
    r'"x":"\ud800"',
    '"type":"b"',
]


@pytest.mark.parametrize("fault", FAULTS, ids=[str(number) for number in range(len(FAULTS))])
def test_an_event_that_is_no_strict_json_keeps_none_of_its_batch(fault):
    good = '{"specversion":"1.0","id":"%s","source":"/s","type":"a"}'
    odd = (good % "2")[:-1] + "," + fault + "}"
    found = parse_batch(f"[{good % 1},{odd},{good % 3}]".encode())
    assert [one.id for one in (found[0], found[2])] == ["1", "3"]
    assert isinstance(found[1], InvalidEventError)
    with pytest.raises(InvalidEventError):
        Event.from_json(odd)


@pytest.mark.parametrize(
    "body", [rb'"\ud800"', b"1e400", b'{"a":1,"a":2}', b"9" * 4301, b"[" * 65 + b"]" * 65, b"\xff"]
)
def test_a_payload_that_is_no_strict_json_is_the_fault_of_data(body):
    with pytest.raises(InvalidEventError) as refused:
        binary("application/json", body)
    assert refused.value.attribute == "data"


@pytest.mark.parametrize("value", ["%ED%A0%80", "%FF", "\udcff", "caf\xe9\udce9"])
def test_a_header_that_is_no_unicode_text_is_refused(value):
    with pytest.raises(InvalidEventError) as refused:
        binary(ce_subject=value)
    assert refused.value.attribute == "subject"


def test_a_batch_of_more_events_than_are_taken_is_refused_whole():
    with pytest.raises(TooManyItemsError):
        parse_batch(b"[" + b"1," * 1000 + b"1]")
