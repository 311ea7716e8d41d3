"""What a hook answers, as it enters the host: a value of its promised shape, or the hook's own failure."""

import json

import pytest

from host.runtime.errors import HookAnswerError, HookFailedError
from host.runtime.hook_outcomes import error_of, value_of
from plugin_sdk.calls import ConfigCall, Health, HealthCall, Request, Response, ServiceCall, StopCall
from plugin_sdk.worker.outcomes import AnswerError, encoded, raised

SERVICE, ROUTE, HEALTH = ServiceCall("do", {}), Request("GET", "/"), HealthCall()
DEEP = b"[" * 65 + b"]" * 65

MALFORMED = [
    (SERVICE, b'"\\ud800"'),
    (SERVICE, b"1e400"),
    (SERVICE, b"NaN"),
    (SERVICE, b'{"a":1,"a":2}'),
    (SERVICE, DEEP),
    (SERVICE, b"[" * 100_000),
    (SERVICE, b"9" * 4301),
    (SERVICE, b'"\xff"'),
    (SERVICE, b""),
    (ROUTE, None),
    (ROUTE, b"null"),
    (ROUTE, b"7"),
    (ROUTE, b'["200",{},""]'),
    (ROUTE, b'[200,{"x":7},""]'),
    (ROUTE, b'[200,[],""]'),
    (ROUTE, b'[200,{},"no base64"]'),
    (ROUTE, b'[200,{"x":"\xff"},""]'),
    (ROUTE, b'[1e400,{},""]'),
    (ROUTE, b"[" * 100_000),
    (HEALTH, b'["well",""]'),
    (HEALTH, b'["pass",7]'),
    (HEALTH, b'{"status":"pass"}'),
    (HEALTH, b'["pass","\\udcff"]'),
]


@pytest.mark.parametrize(("call", "answer"), MALFORMED, ids=[str(number) for number in range(len(MALFORMED))])
def test_an_answer_of_the_wrong_shape_is_the_hooks_failure(call, answer):
    with pytest.raises(HookAnswerError) as refused:
        value_of(call, answer)
    assert (refused.value.word, refused.value.kind.value) == ("plugin_answer_invalid", 502)
    refused.value.message.encode()


@pytest.mark.parametrize(
    ("call", "answer", "value"),
    [
        (SERVICE, None, None),
        (SERVICE, b"null", None),
        (SERVICE, b"18446744073709551616", 2**64),
        (ROUTE, b'[204,{"x":"y"},""]', Response(204, {"x": "y"})),
        (ROUTE, b"[]", Response()),
        (HEALTH, None, Health()),
        (HEALTH, b'["warn","slow"]', Health("warn", "slow")),
        (ConfigCall({}), None, None),
        (StopCall(), None, None),
    ],
    ids=[str(number) for number in range(9)],
)
def test_an_answer_of_the_right_shape_is_its_value(call, answer, value):
    assert value_of(call, answer) == value


def test_a_reason_of_a_health_check_is_bounded():
    found = value_of(HEALTH, json.dumps(["fail", "x" * 100_000]).encode())
    assert len(found.reason) < 3000


NONE = {
    "not a number": float("nan"),
    "half a character": "\ud800",
    "an object": object(),
    "endless": 10**4300,
    "too large": "x" * (5 * 2**20),
    "half a header": Response(200, {"x": "\udcff"}),
    "a body of text": Response(200, {}, "text"),
}


@pytest.mark.parametrize("value", NONE.values(), ids=NONE)
def test_what_no_answer_can_be_is_said_by_the_worker_and_known_by_the_host(value):
    with pytest.raises(AnswerError) as refused:
        encoded(value)
    error = error_of(raised(1, refused.value))
    assert isinstance(error, HookAnswerError)
    assert "wrong shape" in error.message


def test_an_exception_that_a_plugin_raises_is_no_answer():
    error = error_of(raised(1, TypeError("a hook must return a JSON value")))
    assert isinstance(error, HookFailedError)
    assert not isinstance(error, HookAnswerError)
