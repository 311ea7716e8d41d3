"""Keeps one plugin as the registry wants it: what is wanted is compared with what runs, step by step, until both agree.

Whatever goes wrong in a step is this plugin's trouble: its state says so, those who wait for it are answered, and the
step is tried again after a while that grows. Nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from host.errors import BusbarError
from host.lifecycle import standing
from host.lifecycle.applied import Identity, config_of, identity_of, wanted_candidate, wanted_identity, wanted_of
from host.lifecycle.candidate import Candidate
from host.lifecycle.errors import ConfigNotTakenError
from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.keeper_parts import KeeperParts
from host.lifecycle.leaving import Leaving
from host.lifecycle.looks import Looks
from host.lifecycle.trouble import BackOff, passes, sentence
from host.registry.records import PluginRecord, UpgradeOutcome
from host.registry.states import PluginState, PluginStatus
from host.runtime.supervisor import SupervisedState

LONGEST_SLEEP: Final = 60.0
"""Seconds after which the wall clock is looked at in any case: the end of a probation is an instant of its."""

_log = structlog.get_logger(__name__)


class Keeper:
    """Keeps one plugin. `changed` is called with its id whenever its state may have changed.

    `looked` is set once the plugin was brought to what is wanted, or could not be, for the first time.
    """

    def __init__(self, plugin: str, parts: KeeperParts, changed: Callable[[str], None]) -> None:
        self.plugin = plugin
        self.hosted: HostedPlugin | None = None
        self.looked = asyncio.Event()
        self._parts = parts
        self._registry = parts.registry
        self._told = changed
        self._looks = Looks()
        self._recheck = False
        self._back_off = BackOff(parts.clock)
        # The desired state that was tried last: what a rule refuses is not tried again before that changes.
        self._tried: Identity | None = None
        self._candidate: Candidate | None = None
        self._ending_upgrade = False
        self._leaving = Leaving()
        self._going_back = ""
        self._releases: frozenset[str] = frozenset()
        self._status = standing.resting(self._registry.find(plugin), self._now())

    # -- what others ask of it

    def poke(self, *, recheck: bool = False) -> None:
        """The registry changed: look again. `recheck` has the release that runs verified anew."""
        self._recheck = self._recheck or recheck
        self._looks.poke()

    async def caught_up(self) -> None:
        """Wait until everything that changed so far was looked at: brought to the plugin, or found not to be possible.

        A release that gets ready to take over is not waited for.
        """
        await self._looks.caught_up()

    @property
    def upgrading(self) -> bool:
        """Whether a release is on its way to take over, or what follows from it is not done yet."""
        record = self._registry.find(self.plugin)
        return self._ending_upgrade or (
            record is not None
            and record.candidate is not None
            and not record.candidate_missing_grants
            and not self.troubled
        )

    @property
    def troubled(self) -> bool:
        """Whether a step failed, and is tried again."""
        return self._back_off.trouble is not None

    @property
    def gone(self) -> bool:
        """Whether nothing of it runs."""
        return self.hosted is None and self._candidate is None and not self._leaving

    def status(self) -> PluginStatus:
        """The plugin's state, and why."""
        try:
            shown = self._status if self.hosted is None else self.hosted.status()
        except Exception as error:  # noqa: BLE001 - logged; whoever looks at all plugins must see the others
            _log.exception("status_not_told", plugin=self.plugin)
            return standing.untold(self._now(), sentence(error))
        trouble = self._back_off.trouble
        return shown if trouble is None else standing.troubled(shown, trouble, runs=self.hosted is not None)

    # -- life

    async def run(self) -> None:
        """Look at each poke until the plugin is no longer in the registry, and nothing is left of it."""
        while True:
            look = await self._looks.next(self._longest_wait())
            errors = await self._look()
            self._note(errors)
            self._ending_upgrade = False
            self.looked.set()
            await self._looks.done(look)
            self._told(self.plugin)
            if not errors and self._registry.find(self.plugin) is None and not self._looks.due:
                return

    async def stop(self) -> None:
        """Stop the plugin because the host stops; `run` must have been cancelled before. The registry is left alone."""
        await self._give_up_candidate()
        if self.hosted is not None:
            self._leave(self.hosted, "the host is stopping")
        await self._stop_leaving()

    def _longest_wait(self) -> float | None:
        """Seconds to the end of a probation, or until what failed is tried again; None where nothing is due."""
        record = None
        with contextlib.suppress(Exception):  # whatever it is, the look that follows meets it, and tells
            record = self._registry.find(self.plugin)
        seconds = [] if self._back_off.seconds is None else [self._back_off.seconds]
        if record is not None and record.probation_until is not None:
            seconds.append(min(LONGEST_SLEEP, max(0.0, record.probation_until - self._now())))
        return min(seconds, default=None)

    def _note(self, errors: list[Exception]) -> None:
        if not errors:
            self._back_off.succeeded()
            return
        wait = self._back_off.failed(errors[0])
        for error in errors:
            unforeseen = None if isinstance(error, BusbarError) else error
            _log.error(
                "plugin_not_reconciled",
                plugin=self.plugin,
                reason=sentence(error),
                again_in_seconds=wait,
                exc_info=unforeseen,
            )

    # -- looking

    async def _look(self) -> list[Exception]:
        """Take every step towards what is wanted; what was raised on the way.

        A step that fails keeps none of the others: whatever is wrong, a plugin that is to stop is stopped.
        """
        errors: list[Exception] = []
        for step in (
            self._stop_leaving,
            self._judge_probation,
            self._stop_unwanted,
            self._bring,
            self._upgrade,
            self._forget_unused,
        ):
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - the boundary of this plugin: its state tells, and it is tried again
                errors.append(error)
        return errors

    async def _judge_probation(self) -> None:
        """Go back to the release before this one, or end its probation, where it is time to."""
        record = self._registry.find(self.plugin)
        if record is None or record.probation_until is None:
            self._going_back = ""
            return
        if self._going_back and record.previous is not None:
            _log.error("plugin_rolled_back", plugin=self.plugin, version=record.version, reason=self._going_back)
            await self._registry.roll_back(self.plugin, self._going_back)
            self._going_back = ""
        elif self._now() >= record.probation_until:
            if self.hosted is not None:
                await self.hosted.deliveries.drop_others()
            await self._registry.end_probation(self.plugin)

    async def _stop_unwanted(self) -> None:
        """Stop what runs and is not wanted, or was started from something else; and a candidate that nobody wants."""
        record = self._registry.find(self.plugin)
        wanted = wanted_identity(record)
        candidate = self._candidate
        if candidate is not None and candidate.sha256 != wanted_candidate(record):
            await self._give_up_candidate()
            if record is not None:
                why = f"{self.plugin} {candidate.hosted.record.version} is not wanted any more"
                await self._registry.withdraw(self.plugin, candidate.sha256, why)
        if self.hosted is not None and self.hosted.applied.identity != wanted:
            self._leave(self.hosted, "the desired state changed")
        await self._stop_leaving()

    async def _bring(self) -> None:
        """Bring the plugin to what is wanted: cleared away, at rest, started, verified again, or up to date."""
        record = self._registry.find(self.plugin)
        if record is None:
            await self._parts.clear(self.plugin)
            return
        self._releases |= record.releases
        wanted = wanted_identity(record)
        if wanted is None:
            self._tried = None
            self._status = standing.resting(record, self._now())
            return
        if self._leaving or (self._candidate is not None and self._candidate.alone):
            return
        recheck, self._recheck = self._recheck, False
        if self.hosted is None:
            if self._tried != wanted or recheck:
                await self._start(record, wanted)
        elif recheck:
            await self._check_again(self.hosted, record, wanted)
        if self.hosted is not None:
            await self._bring_up_to_date(self.hosted, record)

    async def _start(self, record: PluginRecord, wanted: Identity) -> None:
        self._tried = None
        self._say(standing.starting(self._now()))
        try:
            await self._parts.clear(self.plugin)
            hosted = self._parts.host(record, await self._parts.verify(record), self._changed)
            self.hosted = hosted
            await hosted.start()
        except Exception as error:  # stopped again, and raised again where a later try may do
            if self.hosted is not None:
                self._leave(self.hosted, "it could not be started")
                await self._stop_leaving()
            if passes(error):
                raise
            # An error that a retry cannot mend is tried once for the same desired state, and where trust changed.
            self._refuse(error, wanted)
        else:
            self._tried = wanted

    async def _check_again(self, hosted: HostedPlugin, record: PluginRecord, wanted: Identity) -> None:
        """Stop a plugin whose release is no longer believed, or no longer what was signed."""
        try:
            await self._parts.verify(record)
        except Exception as error:  # judged: raised again where it says nothing about the release
            if passes(error):
                self._recheck = True  # what runs runs on: nothing was found out about it
                raise
            self._leave(hosted, sentence(error))
            await self._stop_leaving()
            self._refuse(error, wanted)

    async def _bring_up_to_date(self, hosted: HostedPlugin, record: PluginRecord) -> None:
        """What a plugin takes while it runs, each piece where it differs; the urgent and instant one first."""
        applied, wanted = hosted.applied, wanted_of(record)
        if applied.breaker != wanted.breaker:
            hosted.apply_breaker(wanted.breaker)
        if hosted.delivering and applied.policies != wanted.policies:
            await hosted.change_policies(record, self._parts.grace)
        if applied.config == wanted.config:
            return
        try:
            if hosted.supervisor.status.state is SupervisedState.FAILED:
                raise ConfigNotTakenError("it does not run")
            await hosted.reconfigure(record)
        except ConfigNotTakenError as error:
            if hosted is not self.hosted:
                raise
            _log.warning("config_not_taken", plugin=self.plugin, reason=error.message)
            self._leave(hosted, "new config needs a restart")
            await self._stop_leaving()
            await self._bring()

    async def _forget_unused(self) -> None:
        """Remove the releases that the record named and names no more: nothing runs them now."""
        if self._leaving:
            return
        record = self._registry.find(self.plugin)
        named = frozenset() if record is None else record.releases
        for sha256 in sorted(self._releases - named):
            await self._parts.forget(sha256)
        self._releases = named

    # -- upgrades

    async def _upgrade(self) -> None:
        """Have the candidate get ready, and take over once it is; or say why it does not."""
        record = self._registry.find(self.plugin)
        if record is None or record.candidate is None or self._leaving:
            return
        if record.candidate_missing_grants:
            if record.last_upgrade is None or record.last_upgrade.outcome is not UpgradeOutcome.WAITING:
                missing = ", ".join(record.candidate_missing_grants)
                await self._registry.wait_for_approval(
                    self.plugin, f"it asks for permissions that are not granted: {missing}"
                )
            return
        if not record.enabled:
            await self._registry.promote(self.plugin, record.candidate.sha256, probation=0)
            return
        candidate = record.candidate
        try:
            if self._candidate is None:
                await self._prepare(record.with_release(candidate))
            elif self._candidate.ended:
                self._ending_upgrade = True
                await self._take_over(self._candidate, record.with_release(candidate))
        except Exception as error:  # the candidate is given up, whatever it was
            if self._candidate is None and self._is_current(candidate.sha256):
                raise  # it took over already, and is stopped and started as any other
            await self._give_up_candidate()
            if self.hosted is not None and not self.hosted.delivering:
                self._leave(self.hosted, "the upgrade failed")  # and is started again
            unforeseen = None if isinstance(error, BusbarError) else error
            reason = sentence(error)
            _log.error(
                "upgrade_failed", plugin=self.plugin, version=candidate.version, reason=reason, exc_info=unforeseen
            )
            if standing.of_the_machine(error):
                raise  # nothing was found out about it: it gets ready anew
            self._ending_upgrade = True
            await self._registry.withdraw(self.plugin, candidate.sha256, reason)
            await self._stop_leaving()
            await self._bring()

    async def _prepare(self, wanted: PluginRecord) -> None:
        """Start the candidate, beside the current release where they can share the host."""
        hosted = self._parts.host(wanted, await self._parts.verify(wanted), self._changed)
        alone = "inline" in {hosted.isolation, self.hosted.isolation if self.hosted else ""}
        self._candidate = Candidate(hosted, alone=alone)
        if alone and self.hosted is not None:
            # Two releases of one package cannot be imported into one process.
            self._leave(self.hosted, "a new release takes its place")
            await self._stop_leaving()
        self._candidate.start(self.poke)

    async def _take_over(self, candidate: Candidate, wanted: PluginRecord) -> None:
        """Hand over to the candidate, which is ready, or has shown that it never will be.

        Raises:
            Exception: it did not get well, or could not take over.
        """
        candidate.check()
        fresh, old = candidate.hosted, self.hosted
        await self._bring_up_to_date(fresh, wanted)
        if old is not None:
            await old.hand_over(self._parts.grace)
        record = await self._registry.promote(self.plugin, candidate.sha256, probation=self._parts.probation)
        self.hosted, self._candidate, self._tried = fresh, None, identity_of(record)
        if old is not None:
            self._leaving.add(old)
        _log.info("plugin_upgraded", plugin=self.plugin, version=record.version)
        self.poke()  # what changed in the meantime is brought to it
        try:
            await fresh.take_over(record)
        except Exception:  # raised again
            self._tried = None  # the registry names it already: it is started as any other
            self._leave(fresh, "it could not take over")
            raise
        await self._stop_leaving()

    async def _give_up_candidate(self) -> None:
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            self._leaving.add(candidate.hosted)
            await candidate.give_up()

    def _is_current(self, sha256: str) -> bool:
        record = self._registry.find(self.plugin)
        return record is not None and record.sha256 == sha256

    # -- stopping

    def _leave(self, hosted: HostedPlugin, cause: str) -> None:
        """Have a plugin be stopped next."""
        self._leaving.add(hosted)
        if self.hosted is hosted:
            self.hosted = None
            self._tried = None
            self._say(standing.stopping(cause, self._now()))

    async def _stop_leaving(self) -> None:
        """Stop what is to be stopped; what could not be is kept until it is."""
        if not self._leaving:
            return
        await self._leaving.stop(self._parts.grace)
        if self.hosted is None and self._status.state is PluginState.STOPPING:
            self._say(standing.resting(self._registry.find(self.plugin), self._now()))

    # -- states

    def _changed(self) -> None:
        """Something about the plugin that runs may have changed; on probation, that may be the end of it."""
        try:
            self._look_at_hosted()
        except Exception:  # noqa: BLE001 - logged with its traceback; who calls is the plugin's supervisor or breaker
            _log.exception("change_not_judged", plugin=self.plugin)
        self._told(self.plugin)

    def _look_at_hosted(self) -> None:
        record, hosted = self._registry.find(self.plugin), self.hosted
        if record is None or hosted is None:
            return
        if hosted.running and hosted.applied.config != config_of(record):
            self.poke()  # it was just starting when its config changed
        if record.probation_until is not None and not self._going_back:
            self._going_back = standing.unwell(hosted)
            if self._going_back:
                self.poke()

    def _refuse(self, error: Exception, wanted: Identity) -> None:
        cause = error.word if isinstance(error, BusbarError) else "unforeseen error"
        _log.error("plugin_refused", plugin=self.plugin, code=cause, reason=sentence(error))
        self._tried = wanted
        self._say(standing.refused(cause, sentence(error), self._now()))

    def _say(self, status: PluginStatus) -> None:
        self._status = status
        self._told(self.plugin)

    def _now(self) -> float:
        return self._parts.clock.now().timestamp()
