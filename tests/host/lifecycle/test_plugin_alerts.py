"""What is wrong with plugins, as alerts: one for each thing, gone when its cause is."""

import pytest
from keeper_rig import does_not_start

from host.lifecycle.plugin_alerts import PluginAlerts
from host.lifecycle.plugin_metrics import PluginMetrics
from host.registry.states import PluginState
from host.runtime.egress import EgressBroker
from host.runtime.runtime import RuntimeSnapshot


@pytest.fixture
async def plugin(keepers):
    await keepers.install("p", permissions={"subscribe": ("p.*",)})
    keepers.reconciler.start()
    await keepers.until_running("p")
    return keepers


@pytest.fixture
def alerts(plugin):
    made = PluginAlerts(plugin.registry, plugin.reconciler)
    return lambda: [(one.id, one.severity.value, one.code) for one in made.alerts()]


async def test_a_plugin_that_runs_is_nobodys_concern(plugin, alerts):
    assert alerts() == []


async def test_one_that_does_not_start_is_critical_until_it_does(plugin, alerts):
    plugin.scripts["p"].start = does_not_start
    await plugin.administration.restart("p", actor="a", wait=False)
    await plugin.until(lambda: plugin.status("p").state is PluginState.FAILED)
    assert alerts() == [("plugin/p/failed", "critical", "failed")]
    plugin.scripts["p"].start = None
    await plugin.administration.restart("p", actor="a")
    assert alerts() == []


async def test_one_whose_breaker_is_open_is_a_warning(plugin, alerts):
    plugin.open_breaker("p")
    assert alerts() == [("plugin/p/degraded", "warning", "degraded")]


async def test_an_upgrade_that_failed_stays_one_until_the_next(plugin, alerts):
    async def second_does_not_start(runtime):
        if runtime.version == "2.0.0":
            await does_not_start(runtime)

    plugin.scripts["p"].start = second_does_not_start
    await plugin.propose("p")
    await plugin.administration.wait_until_steady("p", upgraded=True)
    assert alerts() == [("plugin/p/upgrade", "warning", "upgrade_failed")]
    await plugin.propose("p", "3.0.0")
    await plugin.administration.wait_until_steady("p", upgraded=True)
    assert alerts() == []


async def test_a_sandbox_that_is_not_whole_is_one(plugin, alerts, monkeypatch):
    weak = RuntimeSnapshot("process", "forked", 1, 1, 0, 0.0, 0.0, {"network": "unavailable: no kernel for it"})
    monkeypatch.setattr(plugin.hosted("p").supervisor, "snapshot", lambda: weak)
    assert alerts() == [("plugin/p/sandbox", "warning", "sandbox_weakened")]


async def test_what_is_left_of_one_that_is_uninstalled_is_said_until_it_is_gone(plugin, alerts):
    plugin.faults.start("clearing", "p")
    await plugin.registry.remove("p", purge=True)
    await plugin.caught_up("p")
    assert alerts() == [("plugin/p/left-over", "warning", "plugin_left_over")]
    plugin.faults.stop()
    await plugin.until(lambda: alerts() == [])


async def test_a_plugin_that_cannot_be_measured_hides_no_other(plugin, monkeypatch):
    await plugin.install("q")
    await plugin.until_running("q")

    def broken():
        raise RuntimeError("no")

    monkeypatch.setattr(plugin.hosted("p").supervisor, "snapshot", broken)
    metrics = PluginMetrics(plugin.registry, plugin.reconciler, plugin.log, EgressBroker())
    measured = {family.name: {sample.labels["plugin"] for sample in family.samples} for family in metrics.metrics()}
    assert measured["busbar_worker_resident_bytes"] == {"q"}
    assert measured["busbar_plugin_state"] == {"p", "q"}
