"""The reconciler: a keeper for each plugin, from its install until nothing is left of it."""

import asyncio

import pytest
from keeper_rig import GENEROUS

from host.registry.states import PluginState
from host.routing.replay_store import ReplayState
from plugin_sdk.events import new_event


async def test_before_it_is_started_nothing_runs_and_every_plugin_is_disabled(keepers):
    await keepers.install("p")
    assert keepers.status("p").state is PluginState.DISABLED
    assert (keepers.reconciler.hosted("p"), keepers.runtimes) == (None, [])
    await keepers.caught_up("p")


async def test_plugins_run_that_are_enabled_and_one_that_comes_later_too(keepers):
    await keepers.install("p")
    await keepers.install("q")
    await keepers.registry.change("q", enabled=False)
    keepers.reconciler.start()
    assert keepers.status("p").state is PluginState.STARTING, "nobody has looked yet, and it is on its way"
    assert keepers.status("q").state is PluginState.DISABLED
    assert await keepers.reconciler.looked(GENEROUS)
    await keepers.install("r")
    await keepers.until_running("p", "r")
    assert keepers.status("q").state is PluginState.DISABLED
    assert {one.record.id for one in keepers.reconciler.all_hosted()} == {"p", "r"}


async def test_one_that_is_slow_to_be_looked_at_is_not_waited_for_longer_than_is_said(keepers):
    await keepers.install("p")
    verify, go_on = keepers._verify, asyncio.Event()

    async def slow(record):
        await go_on.wait()
        return await verify(record)

    object.__setattr__(keepers.parts, "verify", slow)
    keepers.reconciler.start()
    assert not await keepers.reconciler.looked(0.01)
    go_on.set()
    assert await keepers.reconciler.looked(GENEROUS)
    await keepers.until_running("p")


async def test_who_watches_a_plugin_hears_of_it_alone_and_a_listener_that_raises_of_nobody_elses_loss(keepers):
    heard = []

    def raising(_plugin):
        raise RuntimeError("no")

    keepers.reconciler.listen(raising)
    keepers.reconciler.listen(heard.append)
    keepers.reconciler.start()
    with keepers.reconciler.watch("p") as of_p, keepers.reconciler.watch("q") as of_q:
        await keepers.install("p")
        await keepers.until_running("p")
        assert (of_p.is_set(), of_q.is_set()) == (True, False)
    assert set(heard) == {"p"}


async def test_a_plugin_that_leaves_and_comes_back_has_another_keeper(keepers):
    await keepers.install("p")
    keepers.reconciler.start()
    await keepers.until_running("p")
    first = keepers.reconciler._keepers["p"]
    await keepers.registry.remove("p", purge=False)
    await keepers.until(lambda: "p" not in keepers.reconciler._keepers)
    assert keepers.running("p") == []
    await keepers.install("p")
    await keepers.until_running("p")
    assert keepers.reconciler._keepers["p"] is not first


async def test_the_end_of_the_host_is_the_end_of_every_plugin_and_changes_nothing_that_is_wanted(keepers):
    for plugin in ("p", "q"):
        await keepers.install(plugin)
    await keepers.propose("q")  # one gets ready meanwhile
    keepers.reconciler.start()
    await keepers.until_running("p", "q")
    before = keepers.registry.all()
    await keepers.reconciler.stop()
    assert [one for one in keepers.runtimes if one.running] == []
    assert keepers.registry.get("p") == before[0]
    await keepers.registry.change("p", enabled=False)  # which nobody acts on any more
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("keeper", "candidate", "health"))]


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_disabled_plugin_is_upgraded_without_a_trial_and_an_enabled_one_after_it(keepers, enabled):
    await keepers.install("p")
    await keepers.registry.change("p", enabled=enabled)
    keepers.reconciler.start()
    await keepers.propose("p")
    async with asyncio.timeout(GENEROUS):
        await keepers.administration.wait_until_steady("p", upgraded=True)
    record = keepers.registry.get("p")
    assert (record.version, record.previous.version) == ("2.0.0", "1.0.0")
    assert (record.probation_until is None, len(keepers.running("p"))) == (not enabled, int(enabled))
    await keepers.registry.change("p", enabled=True)
    await keepers.until_running("p")
    assert [one.version for one in keepers.running("p")] == ["2.0.0"]


async def test_a_replay_whose_filters_cannot_be_read_any_more_ends_and_the_plugin_runs(keepers):
    await keepers.install("p")
    await keepers.bus.publish(new_event("p.happened", source="/tests"))
    replay = await keepers.path.replays.add("p", None, (1, 1), (None, None), [{"nosuch": {}}], actor="alice")
    keepers.reconciler.start()
    await keepers.until_running("p")
    assert (await keepers.path.replays.get(replay.id)).state is ReplayState.CANCELLED
