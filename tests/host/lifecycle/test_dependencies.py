"""Plugins that need other plugins: what is said of a need that is not met, and who waits for whom."""

import asyncio
from contextlib import contextmanager

import pytest

from host.lifecycle import dependencies
from host.lifecycle.dependencies import Dependencies
from host.registry.states import PluginState

STATES = list(PluginState)


class Watch:
    """Who is watched, and a way to say that a plugin's state has changed."""

    def __init__(self):
        self.open = {}
        self.watched = []

    @contextmanager
    def __call__(self, plugin):
        self.watched.append(plugin)
        changed = self.open[plugin] = asyncio.Event()
        try:
            yield changed
        finally:
            del self.open[plugin]


class Bench:
    def __init__(self, rig):
        self.rig = rig
        self.watch = Watch()
        self.dependencies = Dependencies(rig.registry, rig.status, self.watch)

    def change(self, plugin, state):
        self.rig.say(plugin, state)
        if plugin in self.watch.open:
            self.watch.open[plugin].set()

    async def waiting(self, plugin, *requires):
        """A start that waits, as far as it gets by itself."""
        task = asyncio.create_task(self.dependencies.wait(plugin, requires))
        await self.turn()
        return task

    @staticmethod
    async def turn():
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
def bench(rig):
    return Bench(rig)


# -- what is not met


@pytest.mark.parametrize(
    ("requirement", "version", "sentence"),
    [
        ("email", "1.0.0", ""),
        ("email>=1.0", "1.0.0", ""),
        ("email>=1.0,<2", "1.9", ""),
        ("email>=1.0", "2.0rc1", ""),
        ("email>=2", "1.0.0", "it requires email>=2, and email 1.0.0 is installed"),
        ("email==1.0.1", "1.0.0", "it requires email==1.0.1, and email 1.0.0 is installed"),
        ("email!=1.0.0", "1.0", "it requires email!=1.0.0, and email 1.0 is installed"),
        ("email~=1.2", "2.0", "it requires email~=1.2, and email 2.0 is installed"),
        ("sms>=1", "1.0.0", "it requires sms>=1, which is not installed"),
    ],
)
async def test_a_requirement_is_met_by_an_installed_plugin_of_its_version_that_runs(
    bench, requirement, version, sentence
):
    await bench.rig.install("email", version)
    bench.rig.say("email", PluginState.RUNNING)
    assert bench.dependencies.unmet([requirement]) == ((sentence,) if sentence else ())


@pytest.mark.parametrize("state", STATES)
async def test_only_one_that_runs_meets_a_requirement(bench, state):
    await bench.rig.install("email")
    bench.rig.say("email", state)
    met = state in {PluginState.RUNNING, PluginState.DEGRADED}
    assert bench.dependencies.unmet(["email"]) == (() if met else (f"it requires email, which is {state.value}",))


async def test_each_requirement_that_is_not_met_has_its_sentence(bench):
    await bench.rig.install("email")
    bench.rig.say("email", PluginState.RUNNING)
    assert len(bench.dependencies.unmet(["sms", "email", "fax>=2"])) == 2
    assert bench.dependencies.unmet([]) == ()


# -- waiting


async def test_a_start_waits_until_what_it_requires_runs(bench):
    await bench.rig.install("email")
    bench.rig.say("email", PluginState.STARTING)
    task = await bench.waiting("shop", "email")
    assert not task.done()
    bench.change("email", PluginState.STARTING)
    await bench.turn()
    assert not task.done()
    bench.change("email", PluginState.RUNNING)
    await task
    assert bench.watch.open == {}


@pytest.mark.parametrize("state", STATES)
async def test_a_start_waits_for_those_on_their_way_alone(bench, state):
    await bench.rig.install("email")
    bench.rig.say("email", state)
    task = await bench.waiting("shop", "email")
    # An enabled plugin that is still called disabled has not been looked at yet.
    assert task.done() is (state not in {PluginState.STARTING, PluginState.DISABLED})
    bench.change("email", PluginState.FAILED)
    await task


@pytest.mark.parametrize("why", ["not installed", "not enabled", "not granted"])
async def test_a_start_does_not_wait_for_what_cannot_come(bench, why):
    if why != "not installed":
        record = await bench.rig.install("email", enabled=why != "not enabled", permissions={"subscribe": ["a.*"]})
        if why == "not granted":
            await bench.rig.registry.change("email", granted=record.granted.model_copy(update={"subscribe": ()}))
    bench.rig.say("email", PluginState.STARTING)
    assert (await bench.waiting("shop", "email")).done()


async def test_a_start_waits_for_each_of_its_requirements(bench):
    for plugin in ("email", "sms"):
        await bench.rig.install(plugin)
        bench.rig.say(plugin, PluginState.STARTING)
    task = await bench.waiting("shop", "email", "sms>=1")
    bench.change("email", PluginState.RUNNING)
    await bench.turn()
    assert not task.done()
    bench.change("sms", PluginState.RUNNING)
    await task
    assert bench.watch.watched == ["email", "sms"]


async def test_a_requirement_that_takes_too_long_is_not_waited_for_any_more_and_the_next_one_is(bench, monkeypatch):
    monkeypatch.setattr(dependencies, "WAIT_SECONDS", 0.01)
    for plugin in ("email", "sms"):
        await bench.rig.install(plugin)
        bench.rig.say(plugin, PluginState.STARTING)
    async with asyncio.timeout(5):
        await bench.dependencies.wait("shop", ["email", "sms"])
    assert bench.watch.watched == ["email", "sms"]
    assert bench.watch.open == {}


@pytest.mark.parametrize(
    "requires",
    [
        {"shop": ("shop",)},
        {"shop": ("email",), "email": ("shop",)},
        {"shop": ("email",), "email": ("sms>=1",), "sms": ("fax", "shop<9")},
    ],
    ids=["itself", "two", "three"],
)
async def test_in_a_circle_nobody_waits(bench, requires):
    for plugin, needed in requires.items():
        await bench.rig.install(plugin, requires=needed)
        bench.rig.say(plugin, PluginState.STARTING)
    for plugin, needed in requires.items():
        assert (await bench.waiting(plugin, *needed)).done()


async def test_one_outside_a_circle_waits_for_those_in_it(bench):
    for plugin, needed in {"shop": ("email",), "email": ("shop",), "desk": ("shop",)}.items():
        await bench.rig.install(plugin, requires=needed)
        bench.rig.say(plugin, PluginState.STARTING)
    task = await bench.waiting("desk", "shop")
    assert not task.done()
    bench.change("shop", PluginState.DEGRADED)
    await task
