"""Whatever a plugin's exceptions are made of, what leaves the plugin is plain, finite, encodable and bounded."""

import math
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk.errors import DeadLetter, Drop, HostError, Retry
from plugin_sdk.worker.outcomes import raised, returned, text
from plugin_sdk.worker.wire import MAX_LINE, MAX_NAME, MAX_PAYLOAD, MAX_WAIT, Raised


class SpeechlessError(Exception):
    def __str__(self):
        raise LookupError("no words")


class BareRetry(Retry):
    def __init__(self):
        pass  # an author who forgot super().__init__()


def changed(error, **attributes):
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


ODD = [
    (changed(Retry(), after=math.nan), "failure", "finite"),
    (changed(Retry(), after=math.inf), "failure", "finite"),
    (changed(Retry(), after="soon"), "failure", "'soon'"),
    (changed(Retry(), reason=object), "retry", "object"),
    (changed(Retry(), reason="\ud800"), "retry", "\\ud800"),
    (BareRetry(), "failure", "cannot be described"),
    (changed(Drop("x"), reason=None), "drop", "None"),
    (changed(DeadLetter("x"), reason="y" * 100_000), "dead-letter", "y"),
    (changed(HostError("x"), word=7), "host", "x"),
    (changed(HostError("x"), word="w" * 100_000), "host", "x"),
    (ValueError("\udcff"), "failure", "\\udcff"),
    (ValueError("z" * 10_000_000), "failure", "z"),
    (SpeechlessError(), "failure", "cannot be described"),
    (type("Long" * 1000, (Exception,), {})("named"), "failure", "named"),
    (BaseExceptionGroup("several", [ValueError("\udcff"), SystemExit(3)]), "failure", "several"),
    (SystemExit("\udcff"), "failure", "\\udcff"),
]


@pytest.mark.parametrize(("error", "kind", "part"), ODD, ids=range(len(ODD)))
def test_an_odd_exception_becomes_a_message_that_the_host_takes(error, kind, part):
    message = raised(7, error)
    assert (message.id, message.kind) == (7, kind)
    assert part in message.reason
    assert len(message.reason) <= MAX_LINE
    assert len(message.name) <= MAX_NAME
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Raised) == message


@pytest.mark.parametrize(
    ("after", "seconds"),
    [(None, None), (0, 0.0), (-5, 0.0), (7.5, 7.5), (timedelta(minutes=1), 60.0), (1e300, MAX_WAIT), (10**400, None)],
)
def test_a_wait_is_brought_into_its_range(after, seconds):
    if after == 10**400:
        with pytest.raises((ValueError, OverflowError)):
            Retry(after)
    else:
        assert raised(1, Retry(after)).after == seconds


def test_a_reason_in_the_place_of_the_wait_says_how_to_write_it():
    with pytest.raises(TypeError, match=r"Retry\(after=5, reason="):
        Retry("soon")


@pytest.mark.parametrize("wait", [math.nan, math.inf, -math.inf])
def test_a_wait_that_is_no_finite_number_is_refused_where_it_is_written(wait):
    with pytest.raises(ValueError, match="finite"):
        Retry(wait)


@given(st.text(st.characters(codec=None), max_size=50), st.integers(0, 60))
def test_a_text_is_cut_and_can_be_encoded(value, longest):
    found = text(value, longest)
    assert len(found) <= longest
    found.encode()
    if len(value) <= longest and not any("\ud800" <= one <= "\udfff" for one in value):
        assert found == value


@pytest.mark.parametrize("value", [object(), {1, 2}.pop, "\ud800", {"a": "\udfff"}, {("a",): 1}], ids=range(5))
def test_what_is_no_json_is_no_answer(value):
    with pytest.raises(TypeError, match="must return a JSON value"):
        returned(1, value)


def test_an_answer_is_bounded_and_nothing_is_nothing():
    with pytest.raises(ValueError, match="more than"):
        returned(1, "x" * MAX_PAYLOAD)
    assert returned(1, None).value is None
