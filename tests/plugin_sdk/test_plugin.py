import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from heard import Heard, context

from plugin_sdk import (
    Context,
    DeadLetter,
    Delivery,
    Event,
    Firing,
    Plugin,
    Schedule,
    Service,
    Subscription,
    at,
    cron,
    every,
    new_event,
    on_event,
    service,
)
from plugin_sdk.errors import DescriptionError
from plugin_sdk.testing import PluginHarness

# What the decorators say


def test_a_subscription_has_the_methods_name_and_the_contracts_policy_unless_told_otherwise() -> None:
    class Orders(Plugin):
        @on_event("order.placed", "order.*.paid")
        async def order(self) -> None: ...

        @on_event("a", name="b", attempts=3, first_retry=2, longest_retry=4, timeout=0.5)
        async def other(self) -> None: ...

    assert Orders().describe().subscriptions == (
        Subscription(
            name="order",
            types=("order.placed", "order.*.paid"),
            attempts=8,
            first_retry=1.0,
            longest_retry=3600.0,
            timeout=None,
        ),
        Subscription(name="b", types=("a",), attempts=3, first_retry=2, longest_retry=4, timeout=0.5),
    )


INSTANT = datetime(2026, 11, 20, 10, tzinfo=UTC)

SCHEDULES: list[tuple[str, Any, Schedule]] = [
    ("cron in UTC", cron("0 8 * * mon"), Schedule(name="tick", cron="0 8 * * mon")),
    (
        "cron in a time zone",
        cron("0 8 * * *", timezone="Europe/Berlin", misfire="skip"),
        Schedule(name="tick", cron="0 8 * * *", timezone="Europe/Berlin", misfire="skip"),
    ),
    ("seconds", every(90), Schedule(name="tick", every=90.0)),
    ("a span", every(timedelta(minutes=5), misfire="skip"), Schedule(name="tick", every=300.0, misfire="skip")),
    ("an instant", at(INSTANT), Schedule(name="tick", at="2026-11-20T10:00:00+00:00")),
    ("an instant as text", at("2026-11-20T10:00:00Z"), Schedule(name="tick", at="2026-11-20T10:00:00Z")),
    ("a name of its own", every(5, name="beat"), Schedule(name="beat", every=5.0)),
]


@pytest.mark.parametrize(
    ("decorator", "schedule"), [case[1:] for case in SCHEDULES], ids=[case[0] for case in SCHEDULES]
)
def test_a_schedule_says_when_its_method_is_called(
    decorator: Callable[[Callable[..., Any]], Any], schedule: Schedule
) -> None:
    class Clockwork(Plugin):
        @decorator
        async def tick(self) -> None: ...

    assert Clockwork().describe().schedules == (schedule,)


def test_a_service_is_summed_up_by_the_first_line_of_its_docstring() -> None:
    class Orders(Plugin):
        @service
        async def count(self) -> int:
            """How many orders there are.

            Cancelled ones count, too.
            """
            return 0

        @service
        def clear(self) -> None: ...

    assert Orders().describe().services == (
        Service(name="count", summary="How many orders there are."),
        Service(name="clear", summary=""),
    )


def test_handlers_are_described_in_the_order_they_are_written_those_of_a_base_class_first() -> None:
    class Base(Plugin):
        @on_event("z")
        async def zulu(self) -> None: ...

        @on_event("m")
        async def mike(self) -> None: ...

    class Derived(Base):
        @on_event("a")
        async def alpha(self) -> None: ...

    assert [one.name for one in Derived().describe().subscriptions] == ["zulu", "mike", "alpha"]


async def test_a_subclass_overrides_a_handler_together_with_its_decorator() -> None:
    class Base(Heard):
        @on_event("order.placed")
        async def order(self) -> None:
            self.note("base")

    class Derived(Base):
        @on_event("order.*")
        async def order(self) -> None:
            self.note("derived")

    one = Derived()
    async with PluginHarness(one) as plugin:
        await plugin.deliver("order.paid")
    assert one.heard == [(True, "derived")]
    assert [subscription.types for subscription in Base().describe().subscriptions] == [("order.placed",)]


def test_two_handlers_of_one_name_are_refused() -> None:
    class Twice(Plugin):
        @on_event("a")
        async def order(self) -> None: ...

        @on_event("b", name="order")
        async def other(self) -> None: ...

    with pytest.raises(DescriptionError, match="two subscriptions are named 'order'"):
        Twice()


@pytest.mark.parametrize(
    ("decorator", "offered"),
    [
        (on_event("a"), "'context', 'event'"),
        (cron("* * * * *"), "'context', 'firing'"),
        (every(5), "'context', 'firing'"),
        (at(INSTANT), "'context', 'firing'"),
    ],
    ids=["on_event", "cron", "every", "at"],
)
def test_a_handler_that_takes_what_the_host_has_not_is_refused_where_it_is_written(
    decorator: Callable[[Callable[..., Any]], Any], offered: str
) -> None:
    async def tick(self: Plugin, message: object, context: Context) -> None: ...

    with pytest.raises(DescriptionError) as refused:
        decorator(tick)
    assert refused.value.code == "plugin_description_invalid"
    assert f"takes 'message', but the host hands it only {offered}: rename or remove it" in str(refused.value)


@pytest.mark.parametrize("decorator", [on_event("a"), every(5), service], ids=["on_event", "every", "service"])
def test_a_name_that_no_handler_may_have_is_refused_where_it_is_written(
    decorator: Callable[[Callable[..., Any]], Any],
) -> None:
    async def _private(self: Plugin) -> None: ...

    with pytest.raises(DescriptionError, match="'_private' is no name for a .*: write lower-case letters"):
        decorator(_private)


@pytest.mark.parametrize("interval", [0.5, 0, -1, timedelta(milliseconds=999)])
def test_an_interval_under_a_second_is_refused_where_it_is_written(interval: float | timedelta) -> None:
    async def tick(self: Plugin) -> None: ...

    with pytest.raises(DescriptionError, match="'tick': every must be at least 1 second"):
        every(interval)(tick)


def test_a_decorator_that_is_written_without_its_arguments_is_refused() -> None:
    with pytest.raises(DescriptionError):

        class Orders(Plugin):
            @on_event  # type: ignore[arg-type]  # the mistake itself
            async def order(self, event: Event) -> None: ...


def test_two_decorators_on_one_method_are_refused() -> None:
    with pytest.raises(DescriptionError):

        class Orders(Plugin):
            @on_event("order.placed")
            @every(60)
            async def order(self) -> None: ...


# What the handlers are handed


async def test_a_handler_gets_of_event_and_context_what_it_names() -> None:
    class Orders(Heard):
        @on_event("a")
        async def neither(self) -> None:
            self.note("neither")

        @on_event("a")
        async def the_event(self, event: Event) -> None:
            self.note("event", event.type)

        @on_event("a")
        async def the_context(self, context: Context) -> None:
            assert context.delivery is not None
            self.note("context", context.delivery.subscription)

        @on_event("a")
        async def both(self, context: Context, event: Event) -> None:
            assert context.delivery is not None
            self.note("both", event.type, context.delivery.subscription)

    orders = Orders()
    async with PluginHarness(orders) as plugin:
        assert (await plugin.deliver("a")).outcome == "delivered"
    assert orders.heard == [
        (True, "neither"),
        (True, "event", "a"),
        (True, "context", "the_context"),
        (True, "both", "a", "both"),
    ]


async def test_a_plain_function_runs_in_a_thread_of_its_own() -> None:
    class Orders(Heard):
        @on_event("a")
        def order(self, event: Event) -> None:
            self.note(event.type)

        @every(60)
        def tick(self, firing: Firing) -> None:
            self.note(firing.schedule)

        @service
        def count(self) -> int:
            self.note("count")
            return len(self.heard)

    orders = Orders()
    async with PluginHarness(orders) as plugin:
        assert (await plugin.deliver("a")).outcome == "delivered"
        assert (await plugin.fire("tick")).outcome == "delivered"
        assert await plugin.call("count") == 3
    assert orders.heard == [(False, "a"), (False, "tick"), (False, "count")]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
async def test_a_coroutine_behind_a_plain_wrapper_is_awaited() -> None:
    def logged(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        def wrapper(*args: Any, **kwargs: Any) -> Awaitable[None]:
            return method(*args, **kwargs)

        return wrapper

    class Orders(Heard):
        @on_event("a")
        @logged
        async def order(self, event: Event) -> None:
            self.note(event.type)

    orders = Orders()
    async with PluginHarness(orders) as plugin:
        await plugin.deliver("a")
    assert [what for _, what in orders.heard] == ["a"]


async def test_each_firing_goes_to_the_method_of_its_schedule() -> None:
    class Clockwork(Heard):
        @every(60)
        async def tick(self, firing: Firing) -> None:
            self.note("tick", firing.due)

        @cron("0 8 * * *", name="morning")
        async def breakfast(self, context: Context, firing: Firing) -> None:
            self.note("breakfast", firing.schedule, context.plugin)

    clockwork = Clockwork()
    async with PluginHarness(clockwork, name="clockwork") as plugin:
        await plugin.fire("morning")
        await plugin.fire("tick", due=INSTANT)
    assert clockwork.heard == [
        (True, "breakfast", "morning", "clockwork"),
        (True, "tick", "2026-11-20T10:00:00+00:00"),
    ]


async def test_what_belongs_to_no_handler_any_more_is_kept_as_a_dead_letter_that_names_those_there_are() -> None:
    class Orders(Plugin):
        @on_event("a")
        async def order(self) -> None: ...

        @on_event("a")
        async def invoice(self) -> None: ...

        @every(60)
        async def tick(self) -> None: ...

    orders = Orders()
    event = new_event("a", source="/s")
    with pytest.raises(DeadLetter, match="there are 'order', 'invoice'"):
        await orders.on_event(event, context(Delivery("d", "renamed", 1, 1)))
    with pytest.raises(DeadLetter, match="there are 'order', 'invoice'"):
        await orders.on_event(event, context())
    with pytest.raises(DeadLetter, match="no schedule 'renamed'; there are 'tick'"):
        await orders.on_schedule(Firing("renamed", "2026-11-20T10:00:00Z", "1"), context())
