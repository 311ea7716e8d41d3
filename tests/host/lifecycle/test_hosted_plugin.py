"""One hosted plugin over a runtime that is a function of the test: its shares, its state, and what takes it back."""

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from registry_rig import release

from host.lifecycle.hosted_plugin import HostedPlugin, Parts
from host.lifecycle.standing import unwell
from host.registry.states import PluginState
from host.routing.errors import BreakerOpenError, BulkheadFullError, HookTimeoutError
from host.runtime.exits import ExitReason
from host.runtime.runtime import RuntimeSnapshot
from host.runtime.supervisor import SupervisionLimits
from plugin_sdk.calls import Request, ServiceCall
from plugin_sdk.clock import SystemClock
from plugin_sdk.resilience import BreakerPolicy

SEND = ServiceCall("send", {})
PAGE = Request("GET", "/")


class ScriptedRuntime:
    """A runtime that runs at once; `answer` says what becomes of each call."""

    def __init__(self):
        self.exited = asyncio.get_running_loop().create_future()
        self.answer = self._fine

    @staticmethod
    async def _fine(_call):
        return "done"

    async def start(self):
        return None

    def call(self, call):
        return self.answer(call)

    async def stop(self, _stop_hook, _term):
        self.exited.set_result(ExitReason("stopped", "stopped"))

    async def look_after(self):
        return None

    def snapshot(self):
        return RuntimeSnapshot("process", "forked", 1, 1, 0, 0.0, 0.0, {})


class Announced:
    def __init__(self):
        self.events = []

    async def announce(self, type_, *, subject, data):
        self.events.append((type_, subject, data))


class Bench:
    def __init__(self, record):
        self.bus = Announced()
        self.runtime = ScriptedRuntime()
        clock = SystemClock()
        parts = Parts(
            deliveries=SimpleNamespace(),
            bus=self.bus,
            scheduler=SimpleNamespace(),
            dependencies=None,
            make_runtime=lambda _launch, _port: self.runtime,
            make_port=lambda _record, _guard: SimpleNamespace(),
            data=Path("/nonexistent"),
            logs=SimpleNamespace(),
            clock=clock,
            rng=random.Random(1),
            breaker=BreakerPolicy(),
            supervision=SupervisionLimits(),
        )
        self.hosted = HostedPlugin(record, release("kiosk"), parts, lambda: None)

    async def fail(self, call, times=5):
        async def raising(_call):
            raise LookupError("no")

        self.runtime.answer = raising
        for _ in range(times):
            with pytest.raises(LookupError):
                await self.hosted.serve(call, "hook", caller="a")
        self.runtime.answer = self.runtime._fine

    def states(self):
        return {share.value: guard.breaker.state.value for share, guard in self.hosted.guards}


@pytest.fixture
async def bench(rig):
    made = Bench(await rig.install("kiosk"))
    made.hosted.supervisor.start()
    await made.hosted.supervisor.wait_running()
    yield made
    await made.hosted.supervisor.stop()
    await made.hosted.guards.stop()


@pytest.mark.parametrize(("call", "share"), [(SEND, "calls"), (PAGE, "requests")])
async def test_what_one_share_fails_at_opens_no_other_share(bench, call, share):
    await bench.fail(call)
    assert bench.states() == {"deliveries": "closed", "calls": "closed", "requests": "closed", share: "open"}
    with pytest.raises(BreakerOpenError):
        await bench.hosted.serve(call, "hook", caller="b")
    other = PAGE if call is SEND else SEND
    assert await bench.hosted.serve(other, "hook", caller="b") == "done"
    status = bench.hosted.status()
    assert (status.state, status.cause) == (PluginState.DEGRADED, f"breaker of {share} is open")
    await asyncio.sleep(0)
    assert [(type_, data["share"]) for type_, _, data in bench.bus.events] == [("breaker.open", share)]


async def test_neither_callers_nor_strangers_have_a_release_on_probation_taken_back(bench):
    await bench.fail(SEND)
    await bench.fail(PAGE)
    assert unwell(bench.hosted) == ""
    breaker = bench.hosted.guards.deliveries.breaker
    for _ in range(5):
        breaker.failure(breaker.try_acquire(), 0.1, "boom")
    assert unwell(bench.hosted).startswith("its breaker opened: 5 failures in a row")
    assert bench.hosted.status().cause == "breaker is open"  # what it is delivered comes first


@pytest.mark.parametrize(
    ("wanted", "state"), [("open", "forced-open"), ("disabled", "disabled"), ("auto", "closed"), ("closed", "closed")]
)
async def test_an_operators_word_is_for_all_shares(bench, wanted, state):
    await bench.fail(SEND)
    if wanted == "auto":
        bench.hosted.apply_breaker("open")
    bench.hosted.apply_breaker(wanted)
    assert set(bench.states().values()) == {state}


@pytest.mark.parametrize(("call", "share"), [(SEND, "calls"), (PAGE, "requests")])
async def test_a_share_whose_places_are_held_by_what_does_not_end_is_told_and_leaves_the_others_alone(
    bench, call, share
):
    over = asyncio.Event()

    async def stubborn(_call):
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    bench.runtime.answer = stubborn
    for number in range(8):
        with pytest.raises(HookTimeoutError):
            await bench.hosted.serve(call, "hook", 0.01, caller=f"caller-{number % 2}")
    status = bench.hosted.status()
    assert (status.state, status.cause) == (PluginState.DEGRADED, f"no place for {share}")
    with pytest.raises(BulkheadFullError):
        await bench.hosted.serve(call, "hook", 0.01, caller="another")
    bench.runtime.answer = bench.runtime._fine
    assert await bench.hosted.serve(PAGE if call is SEND else SEND, "hook", caller="another") == "done"
    assert bench.hosted.guards.deliveries.in_flight == 0
    over.set()
    await bench.hosted.guards.stop()
    assert bench.hosted.status().state is PluginState.RUNNING
