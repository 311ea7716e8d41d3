"""What runs is what the registry says, whatever is changed at once, beside upgrades, crashes, and failures of both."""

import asyncio
import random

import pytest
from keeper_rig import GENEROUS, Script, does_not_start, keeper_rig, refuses

from host.lifecycle.applied import config_of, identity_of, wanted_of
from host.registry.records import UpgradeOutcome
from host.registry.states import STEADY, PluginState
from host.runtime.errors import HookFailedError

ROUNDS = 200
SECRETS = {"secrets": ("key",)}
BREAKERS = {"auto": {"closed", "open", "half-open"}, "open": {"forced-open"}, "disabled": {"disabled"}}


class Rounds:
    """Three plugins, changed at random; `c` is upgraded all the while."""

    def __init__(self, rig, seed):
        self.rig = rig
        self.random = random.Random(seed)
        self.version = 1
        self.bad = set()

    async def change_something(self):
        """One round of changes, all at once."""
        changes = [self.configure("a"), self.configure("b"), self.upgrade()]
        changes += [
            change(plugin)
            for plugin in ("a", "b", "c")
            for change in (self.force, self.deliver_otherwise, self.restart, self.crash, self.configure)
            if self.random.random() < 0.35
        ]
        if self.random.random() < 0.15:
            changes.append(self.toggle("c"))
        self.random.shuffle(changes)
        await asyncio.gather(*changes)

    async def sometime(self):
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)

    async def configure(self, plugin):
        await self.sometime()
        number = self.random.randrange(10**6)
        secrets = {"key": f"secret {number}"} if self.random.random() < 0.5 else {}
        await self.rig.administration.configure(plugin, {"number": number, **secrets}, actor="alice")

    async def force(self, plugin):
        await self.sometime()
        wanted = self.random.choice(["open", "closed", "auto", "disabled"])
        await self.rig.administration.set_breaker(plugin, wanted, actor="alice")

    async def deliver_otherwise(self, plugin):
        await self.sometime()
        await self.rig.registry.change(plugin, policies={"s": {"attempts": self.random.randrange(1, 9)}})

    async def restart(self, plugin):
        await self.sometime()
        record = self.rig.registry.get(plugin)
        await self.rig.registry.change(plugin, generation=record.generation + 1)

    async def toggle(self, plugin):
        await self.sometime()
        await self.rig.registry.change(plugin, enabled=False)
        await self.sometime()
        await self.rig.registry.change(plugin, enabled=True)

    async def crash(self, plugin):
        await self.sometime()
        for runtime in self.rig.running(plugin)[:1]:
            runtime.kill("crashed")

    async def upgrade(self):
        await self.sometime()
        script = self.rig.scripts["c"]
        script.start = self.start
        script.config = self.random.choice([None, None, self.refuses_once()])
        self.version += 1
        if self.random.random() < 0.25:
            self.bad.add(f"{self.version}.0.0")
        await self.rig.propose("c", f"{self.version}.0.0", permissions=SECRETS)
        await self.sometime()
        if self.random.random() < 0.2:
            self.version += 1
            await self.rig.propose("c", f"{self.version}.0.0", permissions=SECRETS)
        await self.rig.administration.wait_until_steady("c", upgraded=True)
        hosted = self.rig.reconciler.hosted("c")
        if self.rig.registry.get("c").probation_until is None or hosted is None or self.random.random() < 0.7:
            return
        if hosted.guards.deliveries.breaker.state.value == "closed":
            self.rig.open_breaker("c")  # it is taken back

    async def start(self, runtime):
        for _ in range(self.random.randrange(30)):
            await asyncio.sleep(0)
        if runtime.version in self.bad:
            await does_not_start(runtime)

    def refuses_once(self):
        left = [1]

        async def refuse(_call):
            if left and left.pop():
                raise HookFailedError("ValueError", "no such thing")

        return refuse

    async def rest(self):
        """Until nothing is on its way any more."""
        for plugin in ("a", "b", "c"):
            async with asyncio.timeout(GENEROUS):
                await self.rig.administration.wait_until_steady(plugin, upgraded=True)
        await self.rig.until(lambda: all(self.rests(plugin) for plugin in ("a", "b", "c")))

    def rests(self, plugin):
        """Whether its state stands, with nothing left that would change it: as far as anyone can tell from outside."""
        rig, keeper = self.rig, self.rig.reconciler._keepers[plugin]
        status = rig.status(plugin)
        return (
            status.state in STEADY - {PluginState.BACKING_OFF}
            and not keeper._looks.due
            and not keeper._going_back
            and not rig.reconciler.upgrading(plugin)
        )

    def check(self, plugin):
        """What runs, looked at from its own side, is what the registry says."""
        rig, record = self.rig, self.rig.registry.get(plugin)
        if rig.status(plugin).state is PluginState.FAILED:
            # It was disabled for a moment: its release was changed without being tried.
            assert (plugin, rig.running(plugin)) == ("c", []), rig.status(plugin)
            assert record.version in self.bad
            return
        hosted, (runtime,) = rig.hosted(plugin), rig.running(plugin)
        assert hosted.release.sha256 == record.sha256
        assert (runtime.config, runtime.secrets) == (record.effective_config, record.granted_secrets)
        (consumer,) = [one for one in hosted.deliveries.consumers if one.subscription.name == "s"]
        assert consumer.subscription.policy.attempts == record.policies.get("s", {}).get("attempts", 8)
        assert {guard.breaker.state.value for _, guard in hosted.guards} <= BREAKERS[record.breaker]
        assert [one.subscription.id for one in rig.path.router.consumers()].count(f"{plugin}/s") == 1
        assert hosted.applied == wanted_of(record)


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_plugins_change_all_they_have_while_a_third_upgrades(tmp_path, short_waits, logged, seed):
    async with keeper_rig(tmp_path, restarts=10_000) as rig:
        for plugin in ("a", "b", "c"):
            await rig.install(plugin, permissions=SECRETS)
        rig.reconciler.start()
        await rig.until_running("a", "b", "c")
        rounds = Rounds(rig, seed)
        outcomes = set()
        for _ in range(ROUNDS // 2):
            await rounds.change_something()
            await rounds.rest()
            for plugin in ("a", "b", "c"):
                rounds.check(plugin)
            outcomes.add(rig.registry.get("c").last_upgrade.outcome)
            logged.clear()
        assert outcomes >= {UpgradeOutcome.FAILED, UpgradeOutcome.PROBATION}, "the rounds tried too little"


# -- one change at a time, where it used to be lost


@pytest.fixture
async def plugin(keepers):
    await keepers.install("p", permissions=SECRETS)
    keepers.reconciler.start()
    await keepers.until_running("p")
    return keepers


class Gate:
    """A start that waits until it is let go."""

    def __init__(self):
        self.open = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, _runtime=None):
        self.reached.set()
        await self.open.wait()


async def test_what_is_changed_while_an_upgrade_prepares_reaches_the_release_that_runs_at_once_and_the_new_one_too(
    plugin,
):
    gate = plugin.scripts["p"].start = Gate()
    await plugin.propose("p", permissions=SECRETS)
    await gate.reached.wait()
    (old,) = plugin.running("p")

    configured = await plugin.administration.configure("p", {"n": 1, "key": "rotated"}, actor="alice")
    assert configured.told == "the config is in force"
    await plugin.administration.set_breaker("p", "disabled", actor="alice")
    await plugin.registry.change("p", policies={"s": {"attempts": 2}})
    await plugin.caught_up("p")
    assert (old.config, old.secrets) == ({"n": 1}, {"key": "rotated"})
    assert plugin.registry.get("p").version == "1.0.0"

    gate.open.set()
    await plugin.administration.wait_until_steady("p", upgraded=True)
    (fresh,) = plugin.running("p")
    assert fresh is not old
    assert (fresh.config, fresh.secrets) == ({"n": 1}, {"key": "rotated"})
    assert plugin.hosted("p").applied == wanted_of(plugin.registry.get("p"))
    assert plugin.hosted("p").guards.deliveries.breaker.state.value == "disabled"


async def test_a_release_that_does_not_take_what_was_changed_meanwhile_does_not_take_over(plugin):
    script = plugin.scripts["p"]
    gate = script.start = Gate()
    await plugin.propose("p", permissions=SECRETS)
    await gate.reached.wait()
    await plugin.administration.configure("p", {"n": 1}, actor="alice")
    script.config = refuses
    gate.open.set()
    await plugin.administration.wait_until_steady("p", upgraded=True)
    record = plugin.registry.get("p")
    assert (record.version, record.last_upgrade.reason) == (
        "1.0.0",
        "config_changed failed: ValueError: no such thing",
    )
    (old,) = plugin.running("p")
    assert old.config == {"n": 1}


async def test_config_that_is_set_together_with_another_change_is_not_taken_for_applied(plugin):
    await plugin.registry.change(
        "p", policies={"s": {"attempts": 2}}, breaker="open", config={"n": 2}, config_revision=1
    )
    await plugin.caught_up("p")
    assert plugin.running("p")[0].config == {"n": 2}
    assert plugin.hosted("p").applied == wanted_of(plugin.registry.get("p"))


async def test_config_that_is_set_while_the_plugin_starts_reaches_it_once_it_runs(keepers):
    await keepers.install("p")
    gate = Gate()
    keepers.scripts["p"] = Script(start=gate)
    keepers.reconciler.start()
    await gate.reached.wait()
    configuring = asyncio.create_task(keepers.administration.configure("p", {"n": 3}, actor="alice"))
    await keepers.until(lambda: keepers.registry.get("p").config == {"n": 3})
    gate.open.set()
    async with asyncio.timeout(GENEROUS):
        assert (await configuring).told == "the config is in force"
    assert keepers.running("p")[0].config == {"n": 3}


async def test_a_plugin_that_does_not_take_config_is_started_anew_with_it(plugin):
    plugin.scripts["p"].config = refuses
    (old,) = plugin.running("p")
    configured = await plugin.administration.configure("p", {"n": 4}, actor="alice")
    assert configured.told == "the config is in force"
    (fresh,) = plugin.running("p")
    assert (fresh is old, fresh.config) == (False, {"n": 4})


async def test_a_hook_that_never_ends_wedges_nobody_and_the_plugin_is_started_anew(keepers):
    await keepers.install("p", timeout="10ms")
    keepers.reconciler.start()
    await keepers.until_running("p")

    async def for_ever(_call):
        await asyncio.Event().wait()

    keepers.scripts["p"].config = for_ever
    (old,) = keepers.running("p")
    async with asyncio.timeout(GENEROUS):
        configured = await keepers.administration.configure("p", {"n": 5}, actor="alice")
    assert configured.told == "the config is in force"
    (fresh,) = keepers.running("p")
    assert (fresh is old, fresh.config) == (False, {"n": 5})


async def test_the_answer_says_where_config_is_not_in_force(plugin):
    await plugin.registry.change("p", enabled=False)
    configured = await plugin.administration.configure("p", {"n": 6}, actor="alice")
    assert configured.told == "the config is kept; the plugin gets it when it starts, and is disabled: not enabled"

    await plugin.registry.change("p", enabled=True)
    await plugin.until_running("p")
    plugin.scripts["p"].config, plugin.scripts["p"].start = refuses, does_not_start
    configured = await plugin.administration.configure("p", {"n": 7}, actor="alice")
    assert configured.told == "the config is kept; the plugin gets it when it starts, and is failed: start failed"


async def test_a_plugin_that_failed_gets_a_new_chance_with_new_config(plugin):
    plugin.scripts["p"].start = does_not_start
    await plugin.administration.restart("p", actor="alice", wait=False)
    await plugin.until(lambda: plugin.status("p").state is PluginState.FAILED)
    plugin.scripts["p"].start = None
    configured = await plugin.administration.configure("p", {"n": 8}, actor="alice")
    assert configured.told == "the config is in force"
    assert plugin.running("p")[0].config == {"n": 8}


async def test_a_worker_that_dies_over_its_new_config_comes_back_with_it(plugin):
    async def dies(_call):
        (runtime,) = plugin.running("p")
        plugin.scripts["p"].config = None
        runtime.kill("died")
        await asyncio.Event().wait()

    plugin.scripts["p"].config = dies
    asking = asyncio.create_task(plugin.administration.configure("p", {"n": 9}, actor="alice"))
    await plugin.until(lambda: [one.config for one in plugin.running("p")] == [{"n": 9}])
    asking.cancel()


async def test_a_candidate_that_never_gets_well_holds_up_neither_the_host_nor_changes(keepers):
    await keepers.install("p")
    await keepers.propose("p")
    gate = Gate()
    starts = []

    async def second_hangs(_runtime):
        starts.append(1)
        if len(starts) > 1:
            await gate()

    keepers.scripts["p"] = Script(start=second_hangs)
    keepers.reconciler.start()
    assert await keepers.reconciler.looked(GENEROUS)
    await gate.reached.wait()
    await keepers.until(lambda: keepers.status("p").state is PluginState.RUNNING)
    async with asyncio.timeout(GENEROUS):
        await keepers.administration.disable("p", actor="alice")
    assert keepers.status("p").state is PluginState.DISABLED
    assert keepers.running("p") == []
    assert keepers.registry.get("p").last_upgrade.reason == "p 2.0.0 is not wanted any more"


async def test_a_release_that_is_taken_back_brings_its_config_back(plugin):
    await plugin.administration.configure("p", {"of": 1, "key": "first"}, actor="alice")
    await plugin.propose("p", permissions=SECRETS)
    await plugin.administration.wait_until_steady("p", upgraded=True)
    assert plugin.registry.get("p").version == "2.0.0"
    await plugin.administration.configure("p", {"of": 2, "key": "rotated"}, actor="alice")
    plugin.open_breaker("p")
    await plugin.until(lambda: plugin.registry.get("p").version == "1.0.0")
    await plugin.until_running("p")
    (runtime,) = plugin.running("p")
    assert (runtime.config, runtime.secrets) == ({"of": 1}, {"key": "rotated"})


async def test_a_release_that_another_one_overtakes_while_it_gets_ready_never_takes_over(plugin):
    gate = plugin.scripts["p"].start = Gate()
    await plugin.propose("p", "2.0.0", permissions=SECRETS)
    await gate.reached.wait()
    plugin.scripts["p"].start = None
    await plugin.propose("p", "3.0.0", permissions=SECRETS)
    await plugin.administration.wait_until_steady("p", upgraded=True)
    assert plugin.registry.get("p").version == "3.0.0"
    assert len(plugin.running("p")) == 1
    await plugin.until(lambda: plugin.releases[sha_of(plugin, "2.0.0")].sha256 in plugin.forgotten)


def sha_of(rig, version):
    return next(one.sha256 for one in rig.releases.values() if one.version == version)


def test_an_applied_value_shows_no_secret(anyone):
    assert "s3cret" not in repr(wanted_of(anyone))
    assert identity_of(anyone) == wanted_of(anyone).identity
    assert config_of(anyone) == wanted_of(anyone).config


@pytest.fixture
async def anyone(rig):
    await rig.install("p", permissions=SECRETS)
    return await rig.registry.change("p", secrets={"key": "s3cret"}, config={"n": "s3cret"})
