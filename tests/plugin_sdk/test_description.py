from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk import Webhook
from plugin_sdk.description import MAX_ITEMS, Description, Schedule, Service, Subscription
from plugin_sdk.errors import DescriptionError

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)
GLOBS = st.from_regex(r"[A-Za-z0-9_*-]{1,8}(\.[A-Za-z0-9_*-]{1,8}){0,3}", fullmatch=True)


def subscription(name: str = "order", **changes: Any) -> Subscription:
    return Subscription(**{"name": name, "types": ("order.placed",), **changes})


def schedule(name: str = "tick", **changes: Any) -> Schedule:
    return Schedule(**{"name": name, "every": 60.0, **changes})


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    rule = draw(
        st.sampled_from([{"cron": "0 8 * * mon"}, {"at": "2026-11-20T10:00:00Z"}])
        | st.floats(1, 1e9).map(lambda seconds: {"every": seconds})
    )
    return Schedule(name=draw(NAMES), misfire=draw(st.sampled_from(["once", "skip"])), **rule)


subscriptions = st.builds(
    Subscription,
    name=NAMES,
    types=st.lists(GLOBS, min_size=1, max_size=4).map(tuple),
    attempts=st.integers(1, 100),
    first_retry=st.floats(0.001, 10),
    longest_retry=st.floats(10, 1e6),
    timeout=st.none() | st.floats(0.001, 3600),
)

webhooks = st.builds(Webhook, name=NAMES, scheme=st.just("stripe"), secrets=st.just(("key",)))

descriptions = st.builds(
    Description,
    subscriptions=st.lists(subscriptions, max_size=3, unique_by=lambda one: one.name).map(tuple),
    schedules=st.lists(schedules(), max_size=3, unique_by=lambda one: one.name).map(tuple),
    services=st.lists(st.builds(Service, name=NAMES), max_size=3, unique_by=lambda one: one.name).map(tuple),
    routes=st.booleans(),
    webhooks=st.lists(webhooks, max_size=3, unique_by=lambda one: one.name).map(tuple),
    config_schema=st.none() | st.just({"type": "object", "properties": {"greeting": {"type": "string"}}}),
)


@given(descriptions)
def test_a_description_survives_the_wire(described: Description) -> None:
    assert msgspec.json.decode(msgspec.json.encode(described), type=Description) == described
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(described), type=Description) == described


REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    (
        "upper-case name",
        lambda: subscription("Order"),
        "'Order' is no name for a subscription: write lower-case letters, digits and _, a letter first",
    ),
    ("name with a dash", lambda: schedule("a-b"), "'a-b' is no name for a schedule: write"),
    ("name with a digit first", lambda: Service(name="1st"), "'1st' is no name for a service: write"),
    ("empty name", lambda: Service(name=""), "'' is no name for a service: write"),
    ("name with a line end", lambda: Service(name="a\n"), "is no name for a service: write"),
    ("name too long", lambda: Service(name="a" * 65), "is no name for a service: write"),
    ("no type", lambda: subscription(types=()), "subscription 'order' must name at least one event type"),
    (
        "type with a blank",
        lambda: subscription(types=("good", "order placed")),
        "'order placed' is no event type; write dotted words, with * for any characters, such as 'milestone.*'",
    ),
    ("type with an empty word", lambda: subscription(types=("order..placed",)), "'order..placed' is no event type"),
    ("type that ends with a dot", lambda: subscription(types=("order.",)), "'order.' is no event type"),
    ("other wildcard", lambda: subscription(types=("order.?",)), "'order.?' is no event type"),
    ("empty type", lambda: subscription(types=("",)), "'' is no event type"),
    ("no attempt", lambda: subscription(attempts=0), "subscription 'order': attempts must be 1 to 100"),
    ("too many attempts", lambda: subscription(attempts=101), "subscription 'order': attempts must be 1 to 100"),
    (
        "retry at once",
        lambda: subscription(first_retry=0),
        "subscription 'order': first_retry must be above 0 and at most longest_retry",
    ),
    (
        "first retry above the longest",
        lambda: subscription(first_retry=10, longest_retry=5),
        "first_retry must be above 0 and at most longest_retry",
    ),
    ("retry after no number", lambda: subscription(first_retry=float("nan")), "first_retry must be above 0"),
    ("no rule", lambda: Schedule(name="tick"), "schedule 'tick' takes exactly one of cron, every and at"),
    (
        "two rules",
        lambda: schedule(cron="* * * * *"),
        "schedule 'tick' takes exactly one of cron, every and at",
    ),
    ("interval too short", lambda: schedule(every=0.9), "schedule 'tick': every must be at least 1 second"),
    (
        "two subscriptions of one name",
        lambda: Description(subscriptions=(subscription(), subscription(types=("a",)))),
        "two subscriptions are named 'order'",
    ),
    (
        "two schedules of one name",
        lambda: Description(schedules=(schedule(), schedule(every=5))),
        "two schedules are named 'tick'",
    ),
    (
        "two services of one name",
        lambda: Description(services=(Service(name="a"), Service(name="b"), Service(name="a"))),
        "two services are named 'a'",
    ),
]


@pytest.mark.parametrize(("made", "sentence"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_the_contract_does_not_allow_is_refused_when_it_is_made(made: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(DescriptionError) as refused:
        made()
    assert refused.value.code == "plugin_description_invalid"
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "made",
    [
        lambda: subscription("a" * 64),
        lambda: subscription("a"),
        lambda: subscription(attempts=1),
        lambda: subscription(attempts=100),
        lambda: subscription(first_retry=5, longest_retry=5),
        lambda: subscription(types=("*",)),
        lambda: subscription(types=("com.Example_1.order-*.x*y",)),
        lambda: schedule(every=1),
    ],
)
def test_what_stands_on_the_bound_is_allowed(made: Callable[[], Any]) -> None:
    described = made()
    assert msgspec.json.decode(msgspec.json.encode(described), type=type(described)) == described


def test_one_name_may_stand_for_a_subscription_a_schedule_and_a_service() -> None:
    described = Description(
        subscriptions=(subscription("tick"),), schedules=(schedule("tick"),), services=(Service(name="tick"),)
    )
    assert described.services[0].name == described.schedules[0].name == described.subscriptions[0].name


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        ("subscription", lambda count: {"subscriptions": tuple(subscription(f"s{n}") for n in range(count))}),
        ("schedule", lambda count: {"schedules": tuple(schedule(f"s{n}") for n in range(count))}),
        ("service", lambda count: {"services": tuple(Service(name=f"s{n}") for n in range(count))}),
    ],
)
def test_a_plugin_describes_so_many_of_a_kind_and_no_more(kind: str, items: Callable[[int], dict[str, Any]]) -> None:
    Description(**items(MAX_ITEMS))
    with pytest.raises(DescriptionError, match=f"at most {MAX_ITEMS} {kind}s, not {MAX_ITEMS + 1}"):
        Description(**items(MAX_ITEMS + 1))


@pytest.mark.parametrize(
    ("encoded", "sentence"),
    [
        ({"subscriptions": [{"name": "order", "types": ["a b"]}]}, "'a b' is no event type"),
        ({"schedules": [{"name": "tick"}]}, "exactly one of cron, every and at"),
        ({"services": [{"name": "a"}, {"name": "a"}]}, "two services are named 'a'"),
    ],
)
def test_what_comes_over_the_wire_is_checked_as_if_it_were_made_here(encoded: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DescriptionError, match=sentence):
        msgspec.convert(encoded, Description)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_time_limit_that_nothing_can_keep_is_refused(timeout: float) -> None:
    with pytest.raises(DescriptionError, match="timeout"):
        subscription(timeout=timeout)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_an_interval_that_never_comes_due_is_refused(seconds: float) -> None:
    with pytest.raises(DescriptionError, match="every"):
        schedule(every=seconds)


def test_a_misfire_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DescriptionError, match="once"):
        schedule(misfire="never")
