"""What administrators do to plugins: each act is a change of the registry, its entry in the trail, and what runs."""

import asyncio

import pytest
from keeper_rig import does_not_start

from host.administration import administration as module
from host.administration.administration import MASK
from host.administration.errors import (
    ApprovalNeededError,
    ConfigRefusedError,
    GrantsRefusedError,
    PluginStartFailedError,
)
from host.lifecycle.purges import Purges
from host.port.errors import PluginNotRunningError
from host.registry.errors import PluginLeavingError, PluginNotFoundError
from host.registry.states import STEADY, PluginState
from plugin_sdk.errors import HostError
from plugin_sdk.manifest import Permissions


async def trail(rig):
    """The acts in the audit trail, the oldest first."""
    entries, _ = await rig.administration._audit.page(0, 100)
    return [(one.actor, one.action, one.target) for one in reversed(entries)]


# -- running, and not


async def test_a_plugin_is_disabled_and_enabled_and_both_are_written_down(plugin):
    status = await plugin.administration.disable("p", actor="alice")
    assert (status.state, plugin.running("p")) == (PluginState.DISABLED, [])
    status = await plugin.administration.enable("p", actor="bob")
    assert (status.state, len(plugin.running("p"))) == (PluginState.RUNNING, 1)
    assert await trail(plugin) == [("alice", "plugin.disable", "p"), ("bob", "plugin.enable", "p")]


async def test_what_is_so_already_is_not_changed_and_not_written_down(plugin):
    (before,) = plugin.running("p")
    await plugin.administration.enable("p", actor="alice")
    assert (plugin.running("p"), await trail(plugin)) == ([before], [])
    await plugin.administration.disable("p", actor="alice")
    await plugin.administration.disable("p", actor="alice")
    assert len(await trail(plugin)) == 1


async def test_a_restart_is_another_runtime_and_only_of_one_that_is_enabled(plugin):
    (before,) = plugin.running("p")
    await plugin.administration.restart("p", actor="alice")
    (after,) = plugin.running("p")
    assert after is not before
    await plugin.administration.disable("p", actor="alice")
    with pytest.raises(PluginNotRunningError) as refused:
        await plugin.administration.restart("p", actor="alice")
    assert refused.value.word == "plugin_disabled"


async def test_one_that_does_not_start_is_answered_with_why(plugin):
    plugin.scripts["p"].start = does_not_start
    with pytest.raises(PluginStartFailedError, match="start failed") as refused:
        await plugin.administration.restart("p", actor="alice")
    assert refused.value.errors == ("it cannot be loaded",)
    assert (await plugin.administration.restart("p", actor="alice", wait=False)).state is not PluginState.RUNNING


async def test_who_waits_is_answered_when_the_time_is_up(plugin, monkeypatch):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)

    async def hangs(_runtime):
        await asyncio.Event().wait()

    plugin.scripts["p"].start = hangs
    status = await plugin.administration.restart("p", actor="alice")
    assert status.state not in STEADY, "it is answered with what is"


async def test_whoever_is_not_there_is_not_found_whatever_is_asked(plugin):
    administration = plugin.administration
    for act in (
        administration.enable("ghost", actor="alice"),
        administration.disable("ghost", actor="alice"),
        administration.restart("ghost", actor="alice"),
        administration.set_breaker("ghost", "open", actor="alice"),
        administration.grant("ghost", Permissions(), actor="alice"),
        administration.configure("ghost", {}, actor="alice"),
        administration.uninstall("ghost", purge=False, actor="alice"),
    ):
        with pytest.raises(PluginNotFoundError):
            await act
    assert await trail(plugin) == []


async def test_only_what_runs_is_had_as_running_and_only_what_is_hosted_as_hosted(plugin):
    hosted = plugin.hosted("p")
    assert plugin.administration.running("p") is plugin.administration.hosted("p") is hosted
    await plugin.administration.disable("p", actor="alice")
    with pytest.raises(PluginNotRunningError):
        plugin.administration.running("p")
    with pytest.raises(PluginNotRunningError, match="p is disabled, so it has no breaker now"):
        plugin.administration.hosted("p")


# -- the breaker of a plugin


@pytest.mark.parametrize(
    ("wanted", "standing", "state"),
    [
        ("open", "open", "forced-open"),
        ("disabled", "disabled", "disabled"),
        ("closed", "auto", "closed"),
        ("auto", "auto", "open"),
    ],
)
async def test_a_breaker_is_overridden_for_good_but_for_closed_which_is_done_once(plugin, wanted, standing, state):
    plugin.open_breaker("p")
    await plugin.administration.set_breaker("p", wanted, actor="alice")
    assert plugin.registry.get("p").breaker == standing
    assert plugin.hosted("p").guards.deliveries.breaker.state.value == state
    assert await trail(plugin) == [("alice", "plugin.breaker", "p")]


async def test_a_standing_override_is_there_after_a_restart(plugin):
    await plugin.administration.set_breaker("p", "open", actor="alice")
    await plugin.administration.restart("p", actor="alice")
    assert plugin.hosted("p").guards.deliveries.breaker.state.value == "forced-open"
    await plugin.administration.set_breaker("p", "closed", actor="alice")
    assert plugin.hosted("p").guards.deliveries.breaker.state.value == "closed"


# -- what it may


async def test_a_plugin_from_which_a_grant_is_taken_waits_for_approval_and_starts_anew_with_it(plugin):
    (before,) = plugin.running("p")
    await plugin.administration.grant("p", Permissions(subscribe=("p.*",)), actor="alice")
    status = plugin.status("p")
    assert (status.state, status.evidence) == (PluginState.NEEDS_APPROVAL, "secrets: key")
    with pytest.raises(ApprovalNeededError) as refused:
        await plugin.administration.enable("p", actor="alice")
    assert refused.value.errors == ("secrets: key",)
    await plugin.administration.grant("p", Permissions(subscribe=("p.*",), secrets=("key",)), actor="alice")
    (after,) = plugin.running("p")
    assert after is not before


async def test_nothing_is_granted_that_nobody_asks_for(plugin):
    with pytest.raises(GrantsRefusedError) as refused:
        await plugin.administration.grant("p", Permissions(network=("*:443",)), actor="alice")
    assert refused.value.errors == ("network: *:443",)
    assert await trail(plugin) == []


async def test_a_release_that_asks_for_more_takes_over_once_it_is_granted(plugin):
    more = {"secrets": ("key",), "subscribe": ("p.*", "q.*")}
    await plugin.propose("p", permissions=more)
    await plugin.caught_up("p")
    assert plugin.registry.get("p").last_upgrade.reason == (
        "it asks for permissions that are not granted: subscribe: q.*"
    )
    await plugin.administration.grant("p", Permissions(**more), actor="alice")
    assert plugin.registry.get("p").version == "2.0.0"
    assert plugin.hosted("p").release.version == "2.0.0"


# -- config and secrets


async def test_secrets_are_masked_kept_where_the_mask_comes_back_and_removed_by_null(plugin):
    configured = await plugin.administration.configure("p", {"url": "u", "key": "s3cret"}, actor="alice")
    assert configured.shown == {"url": "u", "key": MASK}
    await plugin.administration.configure("p", {"url": "v", "key": MASK}, actor="alice")
    (runtime,) = plugin.running("p")
    assert (runtime.config, runtime.secrets) == ({"url": "v"}, {"key": "s3cret"})
    configured = await plugin.administration.configure("p", {"url": "v", "key": None}, actor="alice")
    assert (configured.shown, plugin.running("p")[0].secrets) == ({"url": "v"}, {})
    assert "s3cret" not in repr((await plugin.administration._audit.page(0, 100))[0])


async def test_config_that_the_model_refuses_changes_nothing(plugin, monkeypatch):
    async def refuse(_release, _config):
        raise HostError("url: is no URL; n: is too small", "config_invalid")

    monkeypatch.setattr(plugin.administration, "_validate_config", refuse)
    with pytest.raises(ConfigRefusedError) as refused:
        await plugin.administration.configure("p", {"url": 1}, actor="alice")
    assert refused.value.errors == ("url: is no URL", "n: is too small")
    assert (plugin.registry.get("p").config, plugin.running("p")[0].config) == ({}, {})
    with pytest.raises(ConfigRefusedError, match="secrets are strings: key"):
        await plugin.administration.configure("p", {"key": 7}, actor="alice")
    assert await trail(plugin) == []


async def test_the_schema_has_the_secrets_among_its_properties(plugin):
    schema = plugin.administration.config_schema("p")
    assert schema["properties"]["key"] == {"type": "string", "format": "password", "writeOnly": True}


# -- uninstall


async def test_an_uninstalled_plugin_is_stopped_and_holds_the_log_no_more(plugin):
    await plugin.administration.uninstall("p", purge=False, actor="alice")
    assert (plugin.running("p"), plugin.registry.find("p")) == ([], None)
    assert plugin.reconciler.gone("p")
    assert await plugin.path.scheduler.plugins() == set()
    assert await plugin.log.plugins() == set()
    assert await trail(plugin) == [("alice", "plugin.uninstall", "p")]


async def test_nobody_comes_under_the_id_while_it_is_being_uninstalled(plugin, monkeypatch):
    sweep, may_end = Purges.sweep, asyncio.Event()

    async def held(purges):
        await may_end.wait()
        await sweep(purges)

    monkeypatch.setattr(Purges, "sweep", held)
    leaving = asyncio.create_task(plugin.administration.uninstall("p", purge=True, actor="alice"))
    await plugin.until(lambda: plugin.registry.find("p") is None)
    with pytest.raises(PluginLeavingError):
        await plugin.install("p")
    may_end.set()
    await leaving
    await plugin.install("p")
    await plugin.until_running("p")
