import asyncio
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from plugin_sdk import (
    Context,
    DeadLetter,
    Description,
    Drop,
    Event,
    Firing,
    Health,
    HostError,
    InvalidEventError,
    Plugin,
    Request,
    Response,
    Retry,
    Subscription,
    every,
    hookimpl,
    on_event,
    service,
)
from plugin_sdk.errors import DescriptionError
from plugin_sdk.testing import Delivered, FakeClock, PluginHarness


class Settings(BaseModel):
    greeting: str = "hello"


class Orders(Plugin):
    """A plugin that notes what it was handed, and decides orders as it is told to."""

    Config = Settings

    def __init__(self, raises: BaseException | None = None) -> None:
        super().__init__()
        self.raises = raises
        self.life: list[str] = []
        self.seen: list[tuple[Event, Context]] = []
        self.firings: list[tuple[Firing, Context]] = []

    async def start(self, context: Context) -> None:
        self.life.append(f"start with {context.config.greeting}")

    async def stop(self) -> None:
        self.life.append("stop")

    @on_event("order.*")
    async def order(self, event: Event, context: Context) -> None:
        self.seen.append((event, context))
        if self.raises is not None:
            raise self.raises

    @on_event("invoice.sent")
    async def invoice(self, event: Event, context: Context) -> None:
        await context.emit("order.invoiced", id=event.id, subject=event.subject, data=event.data)

    @every(60)
    async def tick(self, firing: Firing, context: Context) -> None:
        self.firings.append((firing, context))

    @service
    async def pair(self, left: str) -> tuple[str, None]:
        return left, None

    async def handle_request(self, request: Request) -> Response:
        return Response(201, {"content-type": "text/plain"}, request.body)

    async def check_health(self, context: Context) -> Health:
        return Health("warn", context.config.greeting)


# What became of a delivery

OUTCOMES: list[tuple[str, BaseException | None, Delivered]] = [
    ("returns", None, Delivered("delivered")),
    ("retry", Retry(), Delivered("retried", "", None)),
    ("retry after seconds", Retry(5, "busy"), Delivered("retried", "busy", 5)),
    ("retry after a span", Retry(timedelta(minutes=2)), Delivered("retried", "", 120.0)),
    ("drop", Drop("a test order"), Delivered("dropped", "a test order")),
    ("dead letter", DeadLetter("no address"), Delivered("dead-lettered", "no address")),
    ("host error", HostError("secret 'key' is not set"), Delivered("failed", "secret 'key' is not set")),
    ("exception", LookupError("no such order"), Delivered("failed", "LookupError: no such order")),
    ("exit", SystemExit("enough"), Delivered("failed", "SystemExit: enough")),
]


@pytest.mark.parametrize(("raised", "outcome"), [case[1:] for case in OUTCOMES], ids=[case[0] for case in OUTCOMES])
async def test_a_delivery_ends_as_its_handler_decides(raised: BaseException | None, outcome: Delivered) -> None:
    async with PluginHarness(Orders(raised)) as plugin:
        assert await plugin.deliver("order.placed") == outcome


async def test_a_cancelled_test_is_no_outcome() -> None:
    async with PluginHarness(Orders(asyncio.CancelledError())) as plugin:
        with pytest.raises(asyncio.CancelledError):
            await plugin.deliver("order.placed")


async def test_an_event_that_nobody_takes_tests_nothing() -> None:
    async with PluginHarness(Orders) as plugin:
        with pytest.raises(DescriptionError, match="no subscription takes 'order'"):
            await plugin.deliver("order")


@pytest.mark.parametrize(("kind", "attribute"), [("", "type"), ("order.\x07", "type")])
async def test_an_event_that_no_host_would_take_is_refused(kind: str, attribute: str) -> None:
    async with PluginHarness(Orders) as plugin:
        with pytest.raises(InvalidEventError) as refused:
            await plugin.deliver(kind)
    assert refused.value.attribute == attribute


async def test_of_several_subscriptions_each_gets_the_event_and_the_worst_outcome_counts() -> None:
    heard: list[str] = []

    class Three(Plugin):
        @on_event("a")
        async def first(self) -> None:
            heard.append("first")

        @on_event("*")
        async def second(self) -> None:
            heard.append("second")
            raise Drop("seen before")

        @on_event("b", "a")
        async def third(self) -> None:
            heard.append("third")

    async with PluginHarness(Three) as plugin:
        assert await plugin.deliver("a") == Delivered("dropped", "seen before")
    assert heard == ["first", "second", "third"]


async def test_the_handler_sees_the_event_and_its_delivery() -> None:
    orders = Orders()
    async with PluginHarness(orders, name="orders") as plugin:
        await plugin.deliver("order.placed", data={"total": 5}, subject="1", source="/shop", id="e-1", attempt=3)
    ((event, context),) = orders.seen
    assert (event.type, event.data, event.subject, event.source, event.id) == (
        "order.placed",
        {"total": 5},
        "1",
        "/shop",
        "e-1",
    )
    assert context.plugin == "orders"
    assert context.delivery is not None
    assert (context.delivery.subscription, context.delivery.attempt) == ("order", 3)


async def test_a_second_attempt_has_the_id_of_the_first_and_another_event_has_another() -> None:
    orders = Orders()
    async with PluginHarness(orders) as plugin:
        await plugin.deliver("order.placed", id="e-1")
        await plugin.deliver("order.placed", id="e-1", attempt=2)
        await plugin.deliver("order.placed")
        await plugin.deliver("order.placed")
    first, again, *others = [context.delivery.id for _, context in orders.seen if context.delivery is not None]
    assert first == again
    assert len({first, *others}) == 3


async def test_a_handler_may_ask_for_more_time_and_start_may_not() -> None:
    class Slow(Plugin):
        @on_event("a")
        async def slow(self, context: Context) -> None:
            await context.still_working()

    class TooEarly(Plugin):
        async def start(self, context: Context) -> None:
            await context.still_working()

    async with PluginHarness(Slow) as plugin:
        assert (await plugin.deliver("a")).outcome == "delivered"
    with pytest.raises(HostError) as refused:
        await PluginHarness(TooEarly).__aenter__()
    assert refused.value.word == "no_delivery"


@given(st.from_regex(r"[ab*]{1,5}(\.[ab*]{1,3})?", fullmatch=True), st.text("ab.", min_size=1, max_size=7))
@example("a*a", "a")  # the two ends of a pattern do not share characters
@example("a*b*ba", "aba")
def test_a_star_stands_for_any_characters(glob: str, event_type: str) -> None:
    @hookimpl
    def describe() -> Description:
        return Description(subscriptions=(Subscription(name="order", types=(glob,)),))

    @hookimpl
    async def handle() -> None: ...

    module = ModuleType("orders")
    vars(module).update(describe=describe, on_event=handle)

    async def taken() -> bool:
        async with PluginHarness(module) as plugin:
            try:
                return (await plugin.deliver(event_type)).outcome == "delivered"
            except DescriptionError:
                return False

    assert asyncio.run(taken()) is fnmatchcase(event_type, glob)


# What came out of the plugin


async def test_an_emitted_event_is_kept_with_the_plugin_as_its_source() -> None:
    async with PluginHarness(Orders, name="orders") as plugin:
        assert plugin.emitted == []
        await plugin.deliver("invoice.sent", subject="1", data={"total": 5})
    (event,) = plugin.emitted
    assert (event.type, event.source, event.subject, event.data) == (
        "order.invoiced",
        "/plugins/orders",
        "1",
        {"total": 5},
    )


async def test_an_event_that_is_emitted_again_under_its_id_is_one_event() -> None:
    async with PluginHarness(Orders) as plugin:
        for attempt in (1, 2):
            await plugin.deliver("invoice.sent", id="e-1", attempt=attempt)
        await plugin.deliver("invoice.sent", id="e-2")
    assert [event.id for event in plugin.emitted] == ["e-1", "e-2"]


async def test_another_event_under_an_id_that_is_taken_fails_as_it_would_on_a_host() -> None:
    async with PluginHarness(Orders) as plugin:
        await plugin.deliver("invoice.sent", id="e-1", data="one")
        assert (await plugin.deliver("invoice.sent", id="e-1", data="another")).outcome == "failed"


async def test_keys_and_values_last_beyond_a_restart() -> None:
    class Counts(Plugin):
        @on_event("a")
        async def count(self, context: Context) -> None:
            await context.kv.set("count", await context.kv.get("count", 0) + 1)

        @service
        async def forget(self, context: Context) -> tuple[bool, bool]:
            return await context.kv.delete("count"), await context.kv.delete("count")

        @service
        async def keys(self, context: Context) -> list[str]:
            return await context.kv.keys("c", after="ca", limit=2)

    async with PluginHarness(Counts) as plugin:
        await plugin.deliver("a")
    async with PluginHarness(Counts, kv=plugin.kv) as again:
        await again.deliver("a")
        assert again.value("count") == 2
        again.kv.update({"d": b"1", "cz": b"1", "ca": b"1", "cb": b"1"})
        assert await again.call("keys") == ["cb", "count"]
        assert await again.call("forget") == [True, False]
    assert "count" not in again.kv


# The other calls


async def test_a_firing_has_its_schedule_its_instant_and_a_delivery() -> None:
    orders = Orders()
    due = datetime(2026, 11, 20, 10, tzinfo=UTC)
    async with PluginHarness(orders) as plugin:
        assert await plugin.fire("tick", due=due) == Delivered("delivered")
        await plugin.fire("tick", due=due + timedelta(minutes=1))
    (first, context), (second, _) = orders.firings
    assert (first.schedule, first.due) == ("tick", "2026-11-20T10:00:00+00:00")
    assert first.id != second.id
    assert context.delivery is not None
    assert (context.delivery.id, context.delivery.subscription) == (first.id, "@schedules")


async def test_a_firing_without_an_instant_is_due_now() -> None:
    orders = Orders()
    before = datetime.now(UTC)
    async with PluginHarness(orders) as plugin:
        await plugin.fire("tick")
    assert before <= datetime.fromisoformat(orders.firings[0][0].due) <= datetime.now(UTC)


async def test_a_firing_of_a_schedule_that_is_not_there_names_those_that_are() -> None:
    async with PluginHarness(Orders) as plugin:
        assert await plugin.fire("tock") == Delivered("dead-lettered", "no schedule 'tock'; there are 'tick'")


async def test_the_answer_of_a_call_is_what_json_makes_of_it() -> None:
    async with PluginHarness(Orders) as plugin:
        assert await plugin.call("pair", left="a") == ["a", None]


async def test_an_answer_that_is_no_json_value_fails_in_the_test_already() -> None:
    class Odd(Plugin):
        @service
        async def odd(self) -> object:
            return object()

    async with PluginHarness(Odd) as plugin:
        with pytest.raises(TypeError, match="unsupported"):
            await plugin.call("odd")


async def test_what_a_call_raises_comes_out() -> None:
    async with PluginHarness(Orders) as plugin:
        with pytest.raises(HostError) as refused:
            await plugin.call("pair")
    assert refused.value.word == "arguments_invalid"


async def test_a_request_is_answered_by_the_plugins_routes() -> None:
    async with PluginHarness(Orders) as plugin:
        answer = await plugin.request(Request("POST", "/orders", body=b"five"))
    assert answer == Response(201, {"content-type": "text/plain"}, b"five")


async def test_new_config_is_seen_from_then_on() -> None:
    async with PluginHarness(Orders) as plugin:
        assert await plugin.check_health() == Health("warn", "hello")
        await plugin.reconfigure({"greeting": "hi"})
        assert await plugin.check_health() == Health("warn", "hi")


async def test_wrong_config_is_refused_and_the_old_one_stays() -> None:
    async with PluginHarness(Orders) as plugin:
        with pytest.raises(HostError, match="greeting: Input should be a valid string") as refused:
            await plugin.reconfigure({"greeting": 5})
        assert await plugin.check_health() == Health("warn", "hello")
    assert refused.value.word == "config_invalid"


async def test_a_module_without_a_health_check_is_well() -> None:
    @hookimpl
    async def start() -> None: ...

    module = ModuleType("orders")
    vars(module).update(start=start)
    async with PluginHarness(module) as plugin:
        assert await plugin.check_health() == Health("pass")


# The plugin's life


async def test_the_plugin_starts_with_its_config_and_stops_however_the_test_ends() -> None:
    orders = Orders()

    async def fails() -> None:
        async with PluginHarness(orders, config={"greeting": "hi"}):
            assert orders.life == ["start with hi"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    assert orders.life == ["start with hi", "stop"]


async def test_a_plugin_that_does_not_start_says_why() -> None:
    class Broken(Plugin):
        async def start(self) -> None:
            raise ConnectionError("no database")

    with pytest.raises(ConnectionError, match="no database"):
        await PluginHarness(Broken).__aenter__()


def test_wrong_config_is_refused_before_the_plugin_starts() -> None:
    with pytest.raises(HostError, match="greeting: Input should be a valid string") as refused:
        PluginHarness(Orders, config={"greeting": 5})
    assert refused.value.word == "config_invalid"


def test_code_that_keeps_to_no_contract_is_refused_before_it_starts() -> None:
    class Wrong(Plugin):
        @hookimpl
        async def on_evnt(self, event: Event) -> None: ...

    with pytest.raises(DescriptionError, match="did you mean 'on_event'"):
        PluginHarness(Wrong)


async def test_secrets_are_handed_over_by_name_and_stay_when_config_changes() -> None:
    class Secretive(Plugin):
        @service
        async def reveal(self, name: str, context: Context) -> str:
            return context.secrets[name]

    async with PluginHarness(Secretive, secrets={"key": "hunter2"}) as plugin:
        await plugin.reconfigure({})
        assert await plugin.call("reveal", name="key") == "hunter2"
        with pytest.raises(HostError, match="secret 'token' is not set: list it in plugin.toml") as refused:
            await plugin.call("reveal", name="token")
    assert refused.value.word == "secret_not_set"


async def test_what_the_code_describes_can_be_looked_at() -> None:
    harness: Any = PluginHarness(Orders)
    assert [one.name for one in harness.description.subscriptions] == ["order", "invoice"]
    assert harness.description.routes


# Time


def test_time_stands_still_until_it_passes_and_a_stepped_wall_clock_lets_none_pass() -> None:
    clock = FakeClock()
    wall, forward = clock.now(), clock.monotonic()
    assert (clock.now(), clock.monotonic()) == (wall, forward)
    clock.advance(1.5)
    assert (clock.now() - wall, clock.monotonic() - forward) == (timedelta(seconds=1.5), 1.5)
    clock.step(-3600)
    assert (clock.now() - wall, clock.monotonic() - forward) == (timedelta(seconds=1.5 - 3600), 1.5)
