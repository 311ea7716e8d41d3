import asyncio

import pytest
from registry_rig import FakeCallee

from host.port.errors import (
    ArgumentsRefusedError,
    CallCycleError,
    CallFailedError,
    MethodNotFoundError,
    PluginNotRunningError,
)
from host.port.services import MAX_CHAIN, Services
from host.registry.errors import PluginNotFoundError
from host.registry.states import PluginState
from host.routing.errors import BreakerOpenError, BulkheadFullError, HookTimeoutError
from host.runtime.errors import HookAnswerError, HookFailedError
from plugin_sdk.calls import ServiceCall
from plugin_sdk.description import Service
from plugin_sdk.errors import ArgumentsError, DeadLetter, Drop, HostError, PermissionDeniedError, Retry


class Bench:
    def __init__(self, rig, callee):
        self.rig = rig
        self.callee = callee
        self.hosted = {"email": callee}
        self.services = Services(rig.registry, self.hosted.get, rig.status)

    def call(self, method="send", arguments=None, *, plugin="email", **more):
        return self.services.call(plugin, method, arguments or {}, **more)


@pytest.fixture
async def bench(rig):
    await rig.install("email", services=(Service(name="send"), Service(name="check")))
    rig.say("email", PluginState.RUNNING)
    return Bench(rig, FakeCallee())


async def test_the_callee_gets_the_call_and_its_answer_comes_back(bench):
    async def answer(call):
        return {"sent": call.arguments["to"]}

    bench.callee.answer = answer
    assert await bench.call(arguments={"to": "a@example.com"}, traceparent="00-1") == {"sent": "a@example.com"}
    ((call, hook, longest),) = bench.callee.served
    assert call == ServiceCall("send", {"to": "a@example.com"}, "api", "00-1", (), 0.0)
    assert (hook, longest) == ("call", None)


async def test_a_call_of_a_plugin_names_its_caller_its_chain_and_how_long_it_waits(bench):
    await bench.call(chain=["shop", "orders"], timeout=2.5)
    ((call, _, longest),) = bench.callee.served
    assert (call.caller, call.chain, call.seconds, longest) == ("orders", ("shop", "orders"), 2.5, 2.5)


async def test_a_caller_is_the_plugin_that_asks_or_the_administrator_and_cannot_choose_who(bench):
    await bench.call(chain=["orders", "shop"])
    await bench.call(actor="token:ann")
    assert bench.callee.callers == ["shop", "api:token:ann"]


@pytest.mark.parametrize(
    ("plugin", "method", "error", "code"),
    [
        ("ghost", "send", PluginNotFoundError, "plugin_not_found"),
        ("email", "ghost", MethodNotFoundError, "method_not_found"),
        ("email", "", MethodNotFoundError, "method_not_found"),
        ("email", "Send", MethodNotFoundError, "method_not_found"),
    ],
)
async def test_what_is_not_there_is_not_called(bench, plugin, method, error, code):
    with pytest.raises(error) as refused:
        await bench.call(method, plugin=plugin)
    assert refused.value.word == code
    assert bench.callee.served == []


@pytest.mark.parametrize(
    ("state", "cause", "sentence"),
    [
        (PluginState.BACKING_OFF, "it crashed", "email is backing-off: it crashed"),
        (PluginState.DISABLED, "", "email is disabled"),
    ],
)
@pytest.mark.parametrize("hosted", [True, False])
async def test_a_plugin_that_does_not_run_is_not_called_and_why_is_said(bench, hosted, state, cause, sentence):
    bench.rig.say("email", state, cause)
    bench.callee.running = False
    if not hosted:
        del bench.hosted["email"]
    with pytest.raises(PluginNotRunningError) as refused:
        await bench.call()
    assert refused.value.message == sentence
    assert bench.callee.served == []


@pytest.mark.parametrize("chain", [["email"], ["email", "shop"], ["shop", "email", "orders"]])
async def test_a_call_that_would_wait_for_itself_is_refused_with_the_circle(bench, chain):
    with pytest.raises(CallCycleError) as refused:
        await bench.call(chain=chain)
    assert " -> ".join([*chain, "email"]) in refused.value.message
    assert bench.callee.served == []


@pytest.mark.parametrize(("length", "refused"), [(MAX_CHAIN - 1, False), (MAX_CHAIN, False), (MAX_CHAIN + 1, True)])
async def test_a_chain_has_a_bound(bench, length, refused):
    chain = [f"plugin-{number}" for number in range(length)]
    if refused:
        with pytest.raises(CallCycleError):
            await bench.call(chain=chain)
    else:
        await bench.call(chain=chain)
    assert len(bench.callee.served) == (not refused)


FAILURES = [
    (HookFailedError("ValueError", "no such address"), CallFailedError, "plugin_call_failed", 502),
    (HostError("more than the quota", "kv_quota_exceeded"), CallFailedError, "kv_quota_exceeded", 502),
    (PermissionDeniedError("not granted"), CallFailedError, "permission_denied", 502),
    (ArgumentsError("send: wrong"), ArgumentsRefusedError, "arguments_invalid", 422),
    (HostError("what it called does not take this", "arguments_invalid"), CallFailedError, "arguments_invalid", 502),
    (BreakerOpenError("open"), BreakerOpenError, "breaker_open", 503),
    (BulkheadFullError("full"), BulkheadFullError, "bulkhead_full", 429),
    (HookTimeoutError("late"), HookTimeoutError, "hook_timeout", 504),
]


@pytest.mark.parametrize(
    ("raised", "error", "code", "status"), FAILURES, ids=[f"{row[2]}-{row[3]}" for row in FAILURES]
)
async def test_what_goes_wrong_behind_the_call_has_a_code_of_its_own(bench, raised, error, code, status):
    async def fail(_call):
        raise raised

    bench.callee.answer = fail
    with pytest.raises(error) as found:
        await bench.call()
    assert (found.value.word, found.value.kind.value) == (code, status)
    assert str(raised) in found.value.message


async def test_a_caller_that_gives_up_takes_the_call_with_it(bench):
    ended = asyncio.Event()

    async def hang(_call):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bench.callee.answer = hang
    task = asyncio.create_task(bench.call())
    while not bench.callee.served:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


@pytest.mark.parametrize("verdict", [Drop("x"), Retry(5, "x"), DeadLetter("x")])
async def test_a_decision_on_a_delivery_is_no_answer_to_a_call(bench, verdict):
    async def decide(_call):
        raise verdict

    bench.callee.answer = decide
    with pytest.raises(CallFailedError, match=f"email.send raised {type(verdict).__name__}") as refused:
        await bench.call()
    assert (refused.value.word, refused.value.kind.value) == ("plugin_answer_invalid", 502)


async def test_an_answer_of_the_wrong_shape_has_a_code_of_its_own(bench):
    async def answer(_call):
        raise HookAnswerError("it is no JSON")

    bench.callee.answer = answer
    with pytest.raises(CallFailedError, match="wrong shape: it is no JSON") as refused:
        await bench.call()
    assert refused.value.word == "plugin_answer_invalid"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("not_paid", "not_paid"),
        ("", "plugin_call_failed"),
        ("Not Paid", "plugin_call_failed"),
        ("a\n", "plugin_call_failed"),
        ("x" * 65, "plugin_call_failed"),
        ("\udcff", "plugin_call_failed"),
    ],
)
async def test_a_code_of_a_plugins_own_is_handed_on_where_it_is_one(bench, word, shown):
    async def fail(_call):
        raise HostError("no", word)

    bench.callee.answer = fail
    with pytest.raises(CallFailedError) as refused:
        await bench.call()
    assert refused.value.word == shown
