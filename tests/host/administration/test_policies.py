"""Delivery policies that an administrator overrides: what is shown is what deliveries are made by."""

import pytest

from host.administration.errors import PolicyRefusedError, SubscriptionNotFoundError
from host.administration.policies import Policies
from host.registry.errors import PluginNotFoundError


@pytest.fixture
def policies(plugin):
    return Policies(plugin.registry, plugin.administration.wait_until_caught_up, plugin.administration._audit)


def in_force(plugin):
    """The policy of the consumer that delivers."""
    return next(
        one.subscription.policy for one in plugin.hosted("p").deliveries.consumers if one.subscription.name == "s"
    )


async def test_each_subscription_is_shown_and_that_of_the_firings_too(plugin, policies):
    assert [one.name for one in policies.all("p")] == ["s", "@schedules"]
    assert policies.get("p", "s").types == ("p.happened",)
    assert policies.get("p", "s").overridden == {}


async def test_an_override_is_in_force_when_it_is_answered_and_the_plugin_runs_on(plugin, policies):
    (runtime,) = plugin.running("p")
    answered = await policies.override("p", "s", {"attempts": 3}, actor="alice")
    assert (answered.policy.attempts, answered.overridden) == (3, {"attempts": 3})
    assert in_force(plugin).attempts == 3
    assert plugin.running("p") == [runtime]
    answered = await policies.override("p", "s", {}, actor="alice")
    assert (answered.overridden, in_force(plugin).attempts) == ({}, answered.policy.attempts)
    entries, _ = await plugin.administration._audit.page(0, 10)
    assert [(one.action, one.target) for one in entries] == [("plugin.policy", "p/s")] * 2


async def test_what_is_so_already_is_not_written_down(plugin, policies):
    await policies.override("p", "s", {}, actor="alice")
    assert (await plugin.administration._audit.page(0, 10))[1] == 0


@pytest.mark.parametrize("fields", [{"attempts": 0}, {"attempts": "many"}, {"nosuch": 1}])
async def test_what_cannot_be_meant_is_refused_and_changes_nothing(plugin, policies, fields):
    before = in_force(plugin)
    with pytest.raises(PolicyRefusedError):
        await policies.override("p", "s", fields, actor="alice")
    assert (in_force(plugin), plugin.registry.get("p").policies) == (before, {})


async def test_what_is_not_there_is_not_found(plugin, policies):
    with pytest.raises(SubscriptionNotFoundError, match="it has s, @schedules"):
        await policies.override("p", "t", {}, actor="alice")
    with pytest.raises(PluginNotFoundError):
        policies.get("ghost", "s")
