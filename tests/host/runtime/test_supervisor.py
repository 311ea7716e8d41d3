"""The supervisor itself: what goes wrong in it is the plugin's failure, and never a task that nobody hears of."""

import asyncio
import random

import pytest
import structlog
from keeper_rig import FakeRuntime, Script

from host.runtime.supervisor import SupervisedState, SupervisionLimits, Supervisor
from plugin_sdk.clock import SystemClock


class Bench:
    """A supervisor over a runtime of the test; `heard` is called at each change of state."""

    def __init__(self):
        self.heard = lambda _state: None
        self.changed = asyncio.Event()
        self.runtimes = []
        self.supervisor = Supervisor(
            "p",
            make_runtime=self.make,
            limits=SupervisionLimits(first_restart=0.001),
            memory=2**30,
            clock=SystemClock(),
            rng=random.Random(1),
            on_change=self.on_change,
        )

    def make(self):
        launch = type(
            "Launch", (), {"plugin": "p", "folder": type("Folder", (), {"name": "1"}), "config": {}, "secrets": {}}
        )
        self.runtimes.append(FakeRuntime(launch, Script()))
        return self.runtimes[-1]

    def on_change(self):
        self.changed.set()
        self.heard(self.supervisor.status.state)

    async def until(self, state):
        async with asyncio.timeout(30):
            while self.supervisor.status.state is not state:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def bench():
    with structlog.testing.capture_logs():
        made = Bench()
        yield made
        await made.supervisor.stop()


async def test_what_it_waits_for_before_a_start_may_fail_and_that_is_said(bench):
    async def broken():
        raise LookupError("no such need")

    bench.supervisor.start(broken)
    await bench.until(SupervisedState.FAILED)
    status = bench.supervisor.status
    assert (status.cause, status.evidence) == ("host error", "LookupError: no such need")
    assert not bench.supervisor.running


async def test_a_listener_that_raises_leaves_no_runtime_that_nobody_looks_after(bench):
    def raising(state):
        if state is SupervisedState.BACKING_OFF:
            raise LookupError("no")

    bench.heard = raising
    bench.supervisor.start()
    await bench.until(SupervisedState.RUNNING)
    bench.runtimes[0].kill("crashed")
    await bench.until(SupervisedState.FAILED)
    assert bench.supervisor.status.evidence == "LookupError: no"
    assert not any(one.running for one in bench.runtimes)


async def test_who_hears_that_it_runs_may_call_it_at_once(bench):
    ran = []
    bench.heard = lambda state: ran.append(bench.supervisor.running) if state is SupervisedState.RUNNING else None
    bench.supervisor.start()
    await bench.until(SupervisedState.RUNNING)
    assert ran == [True]
