"""What a delivery policy refuses, and that a decorator takes the very fields that it has."""

import math
from typing import get_type_hints

import pytest

from plugin_sdk import on_event
from plugin_sdk.delivery import (
    MAX_ATTEMPTS,
    MAX_IN_FLIGHT,
    MAX_PRIORITY,
    MAX_RATE,
    MAX_TIMEOUT,
    MAX_WAIT,
    DeliveryPolicy,
    PolicyOptions,
)
from plugin_sdk.description import Subscription
from plugin_sdk.errors import DescriptionError

REFUSED = [
    ({"attempts": 0}, "attempts must be 1 to 100, not 0"),
    ({"attempts": MAX_ATTEMPTS + 1}, "attempts must be 1 to 100, not 101"),
    ({"jitter": -0.1}, "jitter must be 0 to 1, not -0.1"),
    ({"jitter": 1.1}, "jitter must be 0 to 1, not 1.1"),
    ({"jitter": math.nan}, "jitter must be 0 to 1, not nan"),
    ({"longest_asked": -1.0}, "longest_asked must be 0 to"),
    ({"longest_asked": MAX_WAIT + 1}, "longest_asked must be 0 to"),
    ({"in_flight": 0}, "in_flight must be 1 to 1000, not 0"),
    ({"in_flight": MAX_IN_FLIGHT + 1}, "in_flight must be 1 to 1000, not 1001"),
    ({"priority": MAX_PRIORITY + 1}, "priority must be -100 to 100, not 101"),
    ({"priority": -MAX_PRIORITY - 1}, "priority must be -100 to 100, not -101"),
    ({"timeout": 0.0}, "timeout must be above 0 and at most 3600, not 0"),
    ({"timeout": MAX_TIMEOUT + 1.0}, "timeout must be above 0 and at most 3600, not 3601"),
    ({"timeout": math.nan}, "timeout must be above 0 and at most 3600, not nan"),
    ({"max_age": 0.0}, "max_age must be above 0"),
    ({"max_age": -5.0}, "max_age must be above 0"),
    ({"rate": 0.0}, "rate must be above 0 and at most 100000, not 0"),
    ({"rate": MAX_RATE * 2}, "rate must be above 0 and at most 100000, not 200000"),
    ({"first_retry": 0.0}, "first_retry must be above 0 and at most longest_retry"),
    ({"first_retry": math.nan}, "first_retry must be above 0 and at most longest_retry"),
    ({"first_retry": 10.0, "longest_retry": 9.0}, "first_retry must be above 0 and at most longest_retry"),
    ({"longest_retry": 0.0}, "longest_retry must be above 0"),
    ({"longest_retry": MAX_WAIT + 1}, "longest_retry must be above 0"),
    ({"longest_retry": math.inf}, "longest_retry must be above 0"),
    ({"retry_delays": (1.0, 0.0)}, "retry_delays[1] must be above 0"),
    ({"retry_delays": (MAX_WAIT * 2,)}, "retry_delays[0] must be above 0"),
    ({"retry_delays": (1.0,) * (MAX_ATTEMPTS + 1)}, "retry_delays has at most 100 waits, not 101"),
    ({"growth": "cubic"}, "growth must be 'exponential' or 'linear', not 'cubic'"),
    ({"order": "by_key"}, "order must be 'none' or 'by-key' or 'strict', not 'by_key'"),
    ({"at_failure": "stop"}, "at_failure must be 'block' or 'set-aside', not 'stop'"),
    ({"dead_letters": "drop"}, "dead_letters must be 'keep' or 'discard', not 'drop'"),
    ({"behind": "lose"}, "behind must be 'hold' or 'skip', not 'lose'"),
]

ALLOWED = [
    {"attempts": 1},
    {"attempts": MAX_ATTEMPTS},
    {"jitter": 0},
    {"jitter": 1},
    {"longest_asked": 0},
    {"longest_asked": MAX_WAIT},
    {"in_flight": 1},
    {"in_flight": MAX_IN_FLIGHT},
    {"priority": -MAX_PRIORITY},
    {"timeout": MAX_TIMEOUT},
    {"max_age": 1e12},
    {"rate": MAX_RATE},
    {"first_retry": 3600.0},
    {"longest_retry": MAX_WAIT},
    {"retry_delays": (MAX_WAIT,) * MAX_ATTEMPTS},
]


@pytest.mark.parametrize(("fields", "sentence"), REFUSED, ids=[str(fields)[:50] for fields, _ in REFUSED])
def test_what_cannot_be_meant_is_refused_by_the_name_of_its_field(fields, sentence):
    with pytest.raises(DescriptionError) as refused:
        DeliveryPolicy(**fields)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(("fields", "sentence"), REFUSED[:1] + REFUSED[-1:])
def test_a_subscription_refuses_the_same_and_says_which_one_it_is(fields, sentence):
    with pytest.raises(DescriptionError) as refused:
        Subscription(name="s", types=("a",), **fields)
    assert str(refused.value).startswith(f"subscription 's': {sentence}")


@pytest.mark.parametrize("fields", ALLOWED, ids=[str(fields)[:50] for fields in ALLOWED])
def test_the_bounds_themselves_are_allowed(fields):
    assert all(getattr(DeliveryPolicy(**fields), name) == value for name, value in fields.items())


def test_every_field_that_is_checked_has_a_case():
    assert {name for fields, _ in REFUSED for name in fields} == set(DeliveryPolicy.__struct_fields__)


def test_the_keywords_of_a_decorator_are_the_fields_of_the_policy_with_their_types():
    assert get_type_hints(PolicyOptions) == get_type_hints(DeliveryPolicy)


def test_the_keywords_of_a_decorator_reach_the_subscription():
    fields = {
        "attempts": 3,
        "growth": "linear",
        "first_retry": 2.0,
        "longest_retry": 9.0,
        "retry_delays": (1.0, 2.0),
        "jitter": 0.5,
        "longest_asked": 5.0,
        "timeout": 4.0,
        "max_age": 60.0,
        "in_flight": 2,
        "rate": 7.0,
        "priority": 1,
        "order": "by-key",
        "at_failure": "set-aside",
        "dead_letters": "discard",
        "behind": "skip",
    }
    assert fields.keys() == set(DeliveryPolicy.__struct_fields__)
    plugin = described(on_event("a.b", **fields))
    assert {name: getattr(plugin, name) for name in fields} == fields
    assert plugin.retry.delays == (1.0, 2.0)


def described(decorate):
    """The subscription that a decorator makes of a method."""
    from plugin_sdk import Plugin

    async def hook(self, event): ...

    plugin = type("Example", (Plugin,), {"hook": decorate(hook)})()
    (found,) = plugin.describe().subscriptions
    return found
