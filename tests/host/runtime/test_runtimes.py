"""What both runtimes promise: the same cases run against a worker and in the host's own process."""

import asyncio

import msgspec
import pytest
from hypothesis import HealthCheck as Suppressed
from hypothesis import given, settings
from hypothesis import strategies as st

from host.runtime.errors import HookFailedError, StartFailedError
from plugin_sdk.calls import ConfigCall, Delivery, EventCall, HealthCall, ServiceCall
from plugin_sdk.errors import DeadLetter, Drop, HostError, Retry
from plugin_sdk.events import Event, new_event


def event_call(data=None, type_="example.event"):
    return EventCall(new_event(type_, source="/tests", data=data), Delivery("example/act/1", "act", 1, 1))


async def test_a_delivery_reaches_its_handler_and_the_handler_its_kv(runtime, host):
    one = await runtime()
    assert await one.call(event_call("x")) is None
    assert "seen" in host.kv


@pytest.mark.parametrize(
    ("data", "verdict", "reason"),
    [("retry", Retry, "later"), ("drop", Drop, "not mine"), ("dead", DeadLetter, "hopeless")],
)
async def test_a_verdict_comes_out_as_it_was_raised(runtime, data, verdict, reason):
    one = await runtime()
    with pytest.raises(verdict) as raised:
        await one.call(event_call(data))
    assert raised.value.reason == reason
    assert getattr(raised.value, "after", None) in {7, None}


async def test_an_exception_comes_out_with_its_type_message_and_the_authors_line(runtime):
    one = await runtime()
    with pytest.raises(HookFailedError) as raised:
        await one.call(event_call("raise"))
    assert raised.value.message == "LookupError: author's line"
    assert 'raise LookupError("author\'s line")' in raised.value.traceback


@pytest.mark.parametrize("data", ["sysexit", "interrupt"])
async def test_what_would_end_a_program_is_that_hooks_failure_alone(runtime, data):
    one = await runtime()
    with pytest.raises(HookFailedError):
        await one.call(event_call(data))
    assert await one.call(ServiceCall("add", {"a": 1, "b": 2})) == 3


async def test_cancelling_a_call_cancels_the_hook(runtime, host):
    one = await runtime()
    task = asyncio.create_task(one.call(event_call("hang")))
    async with asyncio.timeout(5):
        while "hangs" not in host.kv:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        while "cancelled" not in host.kv:
            await asyncio.sleep(0.01)


async def test_an_emitted_event_reaches_the_host(runtime, host):
    one = await runtime()
    await one.call(event_call("emit"))
    (event,) = host.emitted
    assert (event.type, event.source, event.data) == ("example.done", "/plugins/example", 1)


async def test_what_is_logged_reaches_the_host(runtime, lines):
    one = await runtime()
    await one.call(event_call("log"))
    async with asyncio.timeout(5):
        while "logged" not in lines:
            await asyncio.sleep(0.01)


async def test_a_service_answers_json_and_a_plain_function_runs_in_a_thread(runtime):
    one = await runtime()
    assert await one.call(ServiceCall("add", {"a": 2, "b": 3})) == 5
    assert await one.call(ServiceCall("thread", {})) is True


@pytest.mark.parametrize(
    ("method", "arguments", "word"), [("gone", {}, "method_not_found"), ("add", {"a": 1}, "arguments_invalid")]
)
async def test_a_wrong_call_is_refused_with_a_word(runtime, method, arguments, word):
    one = await runtime()
    with pytest.raises(HostError) as refused:
        await one.call(ServiceCall(method, arguments))
    assert refused.value.word == word


async def test_a_module_of_plain_hooks_is_just_as_good_a_plugin(runtime):
    one = await runtime("plain_plugin")
    await one.call(event_call(type_="plain.event"))
    with pytest.raises(HookFailedError, match="ValueError: plain.other"):
        await one.call(event_call(type_="plain.other"))


async def test_health_and_config_reach_the_plugin(runtime):
    one = await runtime()
    assert (await one.call(HealthCall())).status == "warn"
    await one.call(ConfigCall({"greeting": "hi"}))
    with pytest.raises(HostError) as refused:
        await one.call(ConfigCall({"greeting": 5}))
    assert refused.value.word == "config_invalid"


async def test_stopping_runs_the_stop_hook_and_says_so(runtime, host):
    one = await runtime()
    await one.stop(2.0, 2.0)
    assert host.kv["stopped"] == b"true"
    assert one.exited.result().cause == "stopped"


async def test_a_start_hook_that_raises_keeps_the_plugin_from_starting_and_may_be_tried_again(runtime):
    with pytest.raises(StartFailedError, match="cannot start") as failed:
        await runtime(greeting="fail")
    assert failed.value.retryable


@pytest.mark.parametrize("entry_point", ["missing_module:X", "example_plugin:Missing"])
async def test_a_plugin_that_cannot_be_imported_is_not_tried_again(runtime, entry_point):
    with pytest.raises(StartFailedError) as failed:
        await runtime(entry_point)
    assert not failed.value.retryable


async def test_config_that_does_not_fit_the_model_is_not_tried_again(runtime):
    with pytest.raises(StartFailedError, match="greeting") as failed:
        await runtime(greeting=5)
    assert not failed.value.retryable


ODD = {
    "retry-reason": (HookFailedError, "Retry takes seconds first"),
    "retry-nan": (HookFailedError, "finite number of seconds"),
    "surrogate": (HookFailedError, "udcff"),
    "cancelled": (HookFailedError, "CancelledError"),
    "speechless": (HookFailedError, "cannot be described"),
    "long": (HookFailedError, "ValueError: xxx"),
}


@pytest.mark.parametrize("how", ODD)
async def test_whatever_a_hook_raises_is_that_calls_failure_and_can_be_written_down(runtime, how):
    """Given a call that goes on, when a hook beside it raises something odd, then both are answered."""
    one = await runtime()
    beside = asyncio.create_task(one.call(ServiceCall("echo", {"value": "beside"})))
    kind, part = ODD[how]
    with pytest.raises(kind, match=part) as failed:
        await one.call(ServiceCall("odd", {"how": how}))
    assert len(failed.value.message.encode()) <= 4 * 9000
    assert await beside == "beside"
    assert await one.call(ServiceCall("add", {"a": 1, "b": 2})) == 3


@pytest.mark.parametrize("how", ["print", "log"])
async def test_an_odd_line_costs_no_call_its_answer_and_is_logged(runtime, lines, how):
    one = await runtime()
    answers = await asyncio.gather(
        *(one.call(ServiceCall("echo", {"value": number})) for number in range(20)),
        one.call(ServiceCall("odd", {"how": how})),
        *(one.call(ServiceCall("echo", {"value": number})) for number in range(20)),
    )
    assert answers == [*range(20), None, *range(20)]
    if how == "log":
        async with asyncio.timeout(5):
            while not any("odd" in line for line in lines):
                await asyncio.sleep(0.01)


async def test_a_health_reason_is_bounded_where_it_enters(runtime):
    one = await runtime()
    found = await one.call(HealthCall())
    assert (found.status, len(found.reason)) == ("warn", 2048)


_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda one: st.lists(one, max_size=4) | st.dictionaries(_TEXT, one, max_size=4),
    max_leaves=15,
)


async def test_every_json_value_that_the_log_takes_reaches_the_plugin_and_comes_back(runtime, host):
    """A law, tried with many values: as event, as key and value, as argument and answer, and emitted again."""
    one = await runtime()

    @given(_JSON)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(Suppressed))
    def draw(value):
        drawn.append(value)

    drawn = [2**64, -(2**63) - 1, 10**4000, 5e-324, 1.7976931348623157e308, -0.0, "\U0001f600\x00", [[[[]]]], {"": {}}]
    draw()
    for value in drawn:
        event = Event.from_json(new_event("example.keep", source="/tests", data={"keep": value}).to_json())
        delivery = Delivery("example/act/1", "act", 1, 1)
        assert await one.call(EventCall(Event.trusted(event.to_json()), delivery)) is None
        assert msgspec.json.decode(host.kv["kept"]) == value
        assert host.emitted[-1].data == value
        assert await one.call(ServiceCall("echo", {"value": value})) == value
