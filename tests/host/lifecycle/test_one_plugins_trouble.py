"""An error that nobody foresaw, in each step of one keeper's life: nine plugins never notice, the tenth says why.

And once the error is gone, the tenth is as it is wanted, by itself.
"""

import asyncio
from dataclasses import dataclass

import pytest
from keeper_rig import GENEROUS, does_not_start, keeper_rig

from host.lifecycle import reconciler
from host.lifecycle.applied import wanted_of
from host.lifecycle.errors import PluginNotStoppedError
from host.lifecycle.plugin_alerts import PluginAlerts
from host.lifecycle.trouble import BackOff
from host.registry.records import UpgradeOutcome
from host.registry.states import STEADY, PluginState
from host.storage.errors import StorageFailedError
from host.supply.errors import ReleaseRefusedError
from plugin_sdk.events import new_event
from plugin_sdk.testing import FakeClock

PLUGINS = [f"p{number}" for number in range(10)]
TENTH = "p5"
OTHERS = [one for one in PLUGINS if one != TENTH]
FULL = StorageFailedError("the disk is full")


@pytest.fixture
async def ten(keepers):
    for plugin in PLUGINS:
        await keepers.install(plugin)
    keepers.reconciler.start()
    await keepers.until_running(*PLUGINS)
    return keepers


class Others:
    """The nine, as they were: the same runtimes, with all of their deliveries."""

    def __init__(self, rig):
        self._rig = rig
        self._hosted = {one: rig.hosted(one) for one in OTHERS}
        self._runtimes = {one: rig.running(one) for one in OTHERS}

    async def notice_nothing(self):
        before = {one: len(runtime.events) for one, (runtime,) in self._runtimes.items()}
        for one in OTHERS:
            await self._rig.bus.publish(_event(one))
        await self._rig.until(
            lambda: all(len(runtime.events) == before[one] + 1 for one, (runtime,) in self._runtimes.items())
        )
        for one in OTHERS:
            assert self._rig.hosted(one) is self._hosted[one]
            assert self._rig.running(one) == self._runtimes[one]
            assert self._rig.status(one).state is PluginState.RUNNING


def _event(plugin):
    return new_event(f"{plugin}.happened", source="/tests")


async def restarted(rig):
    record = rig.registry.get(TENTH)
    await rig.registry.change(TENTH, generation=record.generation + 1)


async def with_policies(rig):
    await rig.registry.change(TENTH, policies={"s": {"attempts": 3}})


async def forced_open(rig):
    await rig.registry.change(TENTH, breaker="open")


async def checked(rig):
    rig.reconciler.recheck([TENTH])


async def disabled(rig):
    await rig.registry.change(TENTH, enabled=False)


async def upgraded(rig):
    await rig.propose(TENTH)


async def upgraded_with_more(rig):
    await rig.propose(TENTH, permissions={"subscribe": ["more.*"]})


@dataclass(frozen=True)
class Step:
    """A step that breaks, what has it taken, and how the plugin is while it is broken."""

    breaks: str
    taken: object
    state: PluginState
    wanted: PluginState = PluginState.RUNNING

    def __str__(self):
        return f"{self.breaks} when {self.taken.__name__}"


FAILED, DEGRADED = PluginState.FAILED, PluginState.DEGRADED
STEPS = [
    Step("reading the record", checked, DEGRADED),
    Step("clearing", restarted, FAILED),
    Step("verifying", restarted, FAILED),
    Step("making", restarted, FAILED),
    Step("taking up cursors", restarted, FAILED),
    Step("adopting schedules", restarted, FAILED),
    Step("suspending schedules", restarted, FAILED),
    Step("suspending schedules", disabled, FAILED, PluginState.DISABLED),
    Step("taking up cursors", with_policies, DEGRADED),
    Step("overriding the breaker", forced_open, DEGRADED, DEGRADED),
    Step("verifying", checked, DEGRADED),
    Step("asking for approval", upgraded_with_more, DEGRADED),
    Step("taking up cursors", upgraded, FAILED),
    Step("forgetting", upgraded, DEGRADED),
]


@pytest.mark.parametrize("error", [None, FULL], ids=["unforeseen", "disk"])
@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_a_step_that_breaks_is_one_plugins_trouble_and_over_once_it_does_not(ten, step, error):
    others = Others(ten)
    if step.breaks == "forgetting":  # the release before the one before
        await ten.propose(TENTH, "1.5.0")
        await ten.until(lambda: ten.registry.get(TENTH).version == "1.5.0")
    ten.faults.start(step.breaks, TENTH, error)

    await step.taken(ten)
    if step.taken is upgraded:
        await ten.until(lambda: ten.reconciler._keepers[TENTH]._back_off.trouble)
    await ten.caught_up(TENTH)  # whoever waits is answered

    status = ten.status(TENTH)
    expected = PluginState.BACKING_OFF if error is FULL and step.state is FAILED else step.state
    assert (status.state, status.next_action) == (expected, "try again")
    assert status.evidence == (f"RuntimeError: {step.breaks} broke" if error is None else "the disk is full")
    assert status.next_action_at > status.since
    assert status.state in STEADY
    await others.notice_nothing()

    ten.faults.stop()
    await ten.until(lambda: ten.status(TENTH).state is step.wanted)
    record, hosted = ten.registry.get(TENTH), ten.reconciler.hosted(TENTH)
    assert (hosted is None) is (step.wanted is PluginState.DISABLED)
    if hosted is not None:
        await ten.until(lambda: ten.hosted(TENTH).applied == wanted_of(ten.registry.get(TENTH)))
        assert len(ten.running(TENTH)) == 1
        before = len(ten.running(TENTH)[0].events)
        if record.breaker == "auto":
            await ten.bus.publish(_event(TENTH))
            await ten.until(lambda: len(ten.running(TENTH)[0].events) > before)
    else:
        assert ten.running(TENTH) == []
        schedules, _ = await ten.path.scheduler.page(0, 100)
        assert [one.active for one in schedules if one.plugin == TENTH] == [False]
        assert not [one for one in ten.path.router.consumers() if one.key.startswith(f"{TENTH}/")]
    await others.notice_nothing()


UPGRADE = ["verifying", "making", "suspending schedules", "promoting"]


@pytest.mark.parametrize("breaks", UPGRADE)
async def test_an_upgrade_in_which_something_breaks_fails_and_says_why_and_the_release_before_runs(ten, breaks):
    others = Others(ten)
    ten.faults.start(breaks, TENTH)
    await ten.propose(TENTH)
    async with asyncio.timeout(GENEROUS):
        await ten.administration.wait_until_steady(TENTH, upgraded=True)
    ten.faults.stop()
    await ten.until_running(TENTH)
    record = ten.registry.get(TENTH)
    assert (record.version, record.candidate) == ("1.0.0", None)
    assert (record.last_upgrade.outcome, record.last_upgrade.reason) == (
        UpgradeOutcome.FAILED,
        f"RuntimeError: {breaks} broke",
    )
    assert len(ten.running(TENTH)) == 1
    assert ten.hosted(TENTH).release.version == "1.0.0"
    await others.notice_nothing()


@pytest.mark.parametrize("breaks", UPGRADE)
async def test_an_upgrade_that_the_disk_refuses_is_made_as_soon_as_it_does_not(ten, breaks):
    others = Others(ten)
    ten.faults.start(breaks, TENTH, FULL)
    await ten.propose(TENTH)
    await ten.until(lambda: ten.status(TENTH).evidence == "the disk is full")
    ten.faults.stop()
    await ten.until(lambda: ten.registry.get(TENTH).version == "2.0.0")
    await ten.until_running(TENTH)
    await ten.until(lambda: len(ten.running(TENTH)) == 1)
    await others.notice_nothing()


@pytest.mark.parametrize("breaks", ["going back", "ending the probation", "dropping cursors"])
async def test_a_probation_that_cannot_be_judged_is_judged_once_it_can(tmp_path, short_waits, logged, breaks):
    async with keeper_rig(tmp_path, FakeClock()) as ten:
        for plugin in PLUGINS:
            await ten.install(plugin)
        ten.reconciler.start()
        await ten.until_running(*PLUGINS)
        await ten.propose(TENTH)
        await ten.until(lambda: ten.registry.get(TENTH).version == "2.0.0" and len(ten.running(TENTH)) == 1)
        await ten.until_running(TENTH)
        others = Others(ten)
        ten.faults.start(breaks, TENTH)
        if breaks == "going back":
            ten.open_breaker(TENTH)
        else:
            ten.clock.advance(61)
            ten.reconciler.recheck([TENTH])
        await ten.until(lambda: ten.status(TENTH).evidence == f"RuntimeError: {breaks} broke")
        assert ten.status(TENTH).state is PluginState.DEGRADED
        await others.notice_nothing()
        ten.faults.stop()
        await ten.until(lambda: ten.registry.get(TENTH).probation_until is None)
        assert ten.registry.get(TENTH).version == ("1.0.0" if breaks == "going back" else "2.0.0")
        await ten.until_running(TENTH)


async def test_alerts_and_health_show_it_and_the_others_too(ten):
    alerts = PluginAlerts(ten.registry, ten.reconciler)
    assert (list(alerts.alerts()), alerts.check().status) == ([], "pass")
    ten.faults.start("verifying", TENTH)
    await restarted(ten)
    await ten.caught_up(TENTH)
    (alert,) = alerts.alerts()
    assert (alert.subject, alert.severity.value) == (TENTH, "critical")
    assert "RuntimeError: verifying broke" in alert.message
    assert (alerts.check().status, alerts.check().output) == ("warn", f"{TENTH} is failed")


async def test_a_plugin_whose_state_cannot_be_told_hides_no_other(ten, monkeypatch):
    def broken():
        raise RuntimeError("no")

    monkeypatch.setattr(ten.hosted(TENTH), "status", broken)
    monkeypatch.setattr(ten.hosted(TENTH).supervisor, "snapshot", broken)
    await disabled_other(ten, "p1")
    alerts = PluginAlerts(ten.registry, ten.reconciler)
    assert [(one.subject, one.code) for one in alerts.alerts()] == [(TENTH, "failed"), (TENTH, "not_looked_at")]
    assert ten.status(TENTH).evidence == "RuntimeError: no"
    assert alerts.check_sandboxes().status == "warn"
    assert [ten.status(one).state for one in ("p0", "p1")] == [PluginState.RUNNING, PluginState.DISABLED]


async def disabled_other(rig, plugin):
    await rig.registry.change(plugin, enabled=False)
    await rig.caught_up(plugin)


async def test_the_waits_between_two_tries_grow_up_to_a_bound(ten, monkeypatch):
    monkeypatch.undo()
    clock = FakeClock()
    back_off = BackOff(clock)
    assert [back_off.failed(RuntimeError("no")) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert back_off.seconds == 60
    clock.advance(59)
    assert back_off.seconds == 1
    since = back_off.trouble.since
    assert back_off.failed(RuntimeError("still")) == 60
    assert (back_off.trouble.since, back_off.trouble.reason) == (since, "RuntimeError: still")
    back_off.succeeded()
    assert (back_off.trouble, back_off.seconds) == (None, None)
    assert back_off.failed(ExceptionGroup("several", [ValueError("one")])) == 1
    assert back_off.trouble.reason == "ValueError: one"


async def test_one_that_cannot_be_stopped_does_not_keep_the_host_from_stopping(ten):
    ten.faults.start("suspending schedules", TENTH)
    await ten.reconciler.stop()
    assert [one for one in ten.runtimes if one.running] == [], "the worker is ended whatever else fails"


@pytest.mark.parametrize("error", [RuntimeError("not even that"), asyncio.CancelledError()], ids=["error", "cancelled"])
async def test_a_keeper_whose_task_dies_goes_on_with_what_it_has(ten, monkeypatch, error):
    monkeypatch.setattr(reconciler, "LIFE_AGAIN_SECONDS", 0.0)
    others, keeper = Others(ten), ten.reconciler._keepers[TENTH]
    hosted, note = keeper.hosted, keeper._note
    lives = []

    def dies_once(errors):
        if not lives:
            lives.append(1)
            raise error
        note(errors)

    monkeypatch.setattr(keeper, "_note", dies_once)
    await with_policies(ten)
    await ten.until(lambda: ten.hosted(TENTH).applied.policies == {"s": {"attempts": 3}})
    await ten.caught_up(TENTH)
    assert (keeper.hosted, lives) == (hosted, [1])
    await others.notice_nothing()


async def test_what_is_damaged_in_the_registry_is_one_plugins_trouble_at_the_start(keepers):
    for plugin in PLUGINS:
        await keepers.install(plugin)
    await keepers.database.write(
        lambda connection: connection.execute("UPDATE plugins SET policies = '[' WHERE id = ?", (TENTH,)).rowcount
    )
    await keepers.registry.load()
    keepers.reconciler.start()
    assert await keepers.reconciler.looked(GENEROUS)
    await keepers.until_running(*OTHERS)
    status = keepers.status(TENTH)
    assert (status.state, status.cause) == (PluginState.FAILED, "record_damaged")
    assert "restore p5 from a backup" in status.next_action
    assert keepers.running(TENTH) == []
    await keepers.registry.remove(TENTH, purge=False)
    await keepers.caught_up(TENTH)
    assert keepers.reconciler.gone(TENTH)


async def test_a_disk_that_refuses_at_the_start_is_not_for_ever(keepers):
    await keepers.install(TENTH)
    keepers.faults.start("taking up cursors", TENTH, FULL)
    keepers.reconciler.start()
    assert await keepers.reconciler.looked(GENEROUS)
    status = keepers.status(TENTH)
    assert (status.state, status.evidence) == (PluginState.BACKING_OFF, "the disk is full")
    keepers.faults.stop()
    await keepers.until_running(TENTH)
    assert len(keepers.running(TENTH)) == 1


async def test_an_answer_about_an_uninstall_that_could_not_stop_the_plugin_says_so(ten):
    ten.faults.start("suspending schedules", TENTH, FULL)
    with pytest.raises(PluginNotStoppedError, match="the disk is full"):
        await ten.administration.uninstall(TENTH, purge=False, actor="alice")
    assert ten.running(TENTH) == []
    ten.faults.stop()
    await ten.until(lambda: ten.reconciler.gone(TENTH))


async def test_a_release_that_is_refused_stays_so_whatever_becomes_of_one_that_was_to_take_over(ten):
    refused = ReleaseRefusedError("revoked", "its key was revoked")
    ten.faults.start("verifying", TENTH, refused)
    await restarted(ten)
    await ten.caught_up(TENTH)
    before = ten.status(TENTH)
    assert (before.state, before.cause, before.next_action_at) == (PluginState.FAILED, "release_revoked", None)
    await ten.propose(TENTH)
    await ten.administration.wait_until_steady(TENTH, upgraded=True)
    assert ten.status(TENTH) == before
    assert ten.registry.get(TENTH).last_upgrade.reason == "its key was revoked"
    ten.faults.stop()
    ten.scripts[TENTH].start = does_not_start
    await ten.propose(TENTH, "3.0.0")
    await ten.administration.wait_until_steady(TENTH, upgraded=True)
    assert ten.registry.get(TENTH).last_upgrade.outcome is UpgradeOutcome.FAILED
    assert ten.status(TENTH) == before, "it is tried again when something changes: trust, or what is wanted"
    ten.scripts[TENTH].start = None
    ten.reconciler.recheck([TENTH])
    await ten.until_running(TENTH)
