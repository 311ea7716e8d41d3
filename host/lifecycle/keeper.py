"""Keeps one plugin as the registry wants it: starts, stops and reconfigures it, and has a new release take over.

A new release is started beside the old one. Once it runs and is well, the old one's deliveries are drained, the
new one takes up its cursors, and the registry names it; all the while the old one is there to go on. For a time
after that it is on probation, and the host goes back by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from host.errors import BusbarError
from host.lifecycle.errors import UpgradeFailedError
from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.look_again import LookAgain
from host.registry.records import PluginRecord, UpgradeOutcome
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus
from host.runtime.supervisor import SupervisedState
from host.storage.errors import StorageBusyError, StorageFailedError
from host.supply.installer import Release
from plugin_sdk.clock import Clock
from plugin_sdk.resilience import BreakerState

AGAIN_SECONDS: Final = 1.0
"""Wait before a plugin that could not be reconciled is looked at again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a running plugin was started from; where it differs from the registry, it is started anew."""

    sha256: str
    generation: int
    granted: str


@dataclass(frozen=True, slots=True)
class KeeperParts:
    """What every keeper works with; made once.

    Attributes:
        registry: What is wanted.
        admit: Verifies the release of a record with today's trust, and says so where it is refused.
        host: Makes the plugin of a record and its release; it is not started by that.
        forget: Removes the files of a release that no record names any more.
        clear: Takes away the data of a plugin that was purged under this id, if any is left.
        grace: Seconds that deliveries in flight have to end in when a plugin is stopped.
        probation: Seconds after an upgrade in which the host goes back by itself.
        clock: For what is said of states, and the end of a probation.
    """

    registry: Registry
    admit: Callable[[PluginRecord], Awaitable[Release]]
    host: Callable[[PluginRecord, Release, Callable[[], None]], HostedPlugin]
    forget: Callable[[str], Awaitable[None]]
    clear: Callable[[str], Awaitable[None]]
    grace: float
    probation: float
    clock: Clock


def identity_of(record: PluginRecord) -> Identity:
    """The identity that the registry wants."""
    return Identity(record.sha256, record.generation, record.granted.model_dump_json())


class Keeper:
    """Keeps one plugin. `changed` is called with its id whenever its state may have changed."""

    def __init__(self, plugin: str, parts: KeeperParts, changed: Callable[[str], None]) -> None:
        self.plugin = plugin
        self.hosted: HostedPlugin | None = None
        self._parts = parts
        self._registry = parts.registry
        self._identity: Identity | None = None
        self._config_revision = 0
        self._told = changed
        self._wanted = 0
        self._done = 0
        self._poked = asyncio.Event()
        self._progress = asyncio.Condition()
        self._recheck = False
        self._going_back = ""
        self._look_again = LookAgain()
        self._releases: frozenset[str] = frozenset()
        self._status = self._resting()

    def poke(self, *, recheck: bool = False) -> None:
        """The registry changed: look again. `recheck` has the release that runs verified anew."""
        self._wanted += 1
        self._recheck = self._recheck or recheck
        self._poked.set()

    async def settled(self) -> None:
        """Wait until every change made so far is reconciled."""
        wanted = self._wanted
        async with self._progress:
            await self._progress.wait_for(lambda: self._done >= wanted)

    def status(self) -> PluginStatus:
        """The plugin's state, and why."""
        return self._status if self.hosted is None or self._stopping() else self.hosted.status()

    async def run(self) -> None:
        """Reconcile at each poke until the plugin is no longer in the registry."""
        while True:
            await self._next_reason()
            self._poked.clear()
            wanted = self._wanted
            record = self._registry.find(self.plugin)
            self._releases |= frozenset() if record is None else record.releases
            try:
                await self._reconcile(record)
                await self._forget_unused(self._registry.find(self.plugin))
            except Exception as error:  # noqa: BLE001 - logged; the other plugins' keepers must not end by it
                # Such as a registry on a full disk: what runs runs on, and all is looked at again.
                expected = isinstance(error, BusbarError)
                _log.error("plugin_not_reconciled", plugin=self.plugin, reason=str(error), exc_info=not expected)
                await asyncio.sleep(AGAIN_SECONDS)
                self.poke(recheck=True)
                continue
            self._done = wanted
            async with self._progress:
                self._progress.notify_all()
            self._told(self.plugin)
            if self._registry.find(self.plugin) is None and not self._poked.is_set():
                return

    async def stop(self) -> None:
        """Stop the plugin because the host stops; the registry stays as it is."""
        if self.hosted is not None:
            await self._stop("the host is stopping")

    # -- reconciling

    async def _next_reason(self) -> None:
        """Wait for a poke, for the end of a probation, or until what the machine refused is tried again."""
        record = self._registry.find(self.plugin)
        times = (None if record is None else record.probation_until, self._look_again.at)
        until = min((at for at in times if at is not None), default=None)
        if until is None:
            await self._poked.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, until - self._parts.clock.now().timestamp())):
                await self._poked.wait()
        except TimeoutError:
            return

    async def _reconcile(self, record: PluginRecord | None) -> None:
        recheck, self._recheck = self._recheck or self._look_again.at is not None, False
        self._look_again.at = None
        if record is not None:
            record = await self._judge_probation(record)
        wanted = identity_of(record) if record and record.enabled and not record.missing_grants else None
        if self.hosted is not None and self._identity != wanted:
            await self._stop("the desired state changed")
        if record is None:
            await self._clear()
            return
        if wanted is None:
            self._identity = None
            self._status = self._resting(record)
        elif self.hosted is not None and recheck:
            await self._check_again(record, wanted)
        elif self.hosted is None and (self._identity != wanted or recheck):
            # A start that failed before there was anything to supervise is not repeated for the same
            # desired state: an error that a retry cannot mend is tried once, and once more where trust changed.
            await self._start(record, wanted)
        elif self.hosted is not None and record.config_revision != self._config_revision:
            await self._reconfigure(record)
        if self.hosted is not None:
            await self._adjust(self.hosted, record)
        if record.candidate is not None:
            await self._upgrade(record)

    async def _forget_unused(self, record: PluginRecord | None) -> None:
        """Remove the releases that the record named and names no more: nothing runs them now."""
        named = frozenset() if record is None else record.releases
        for sha256 in sorted(self._releases - named):
            await self._parts.forget(sha256)
        self._releases = named

    async def _adjust(self, hosted: HostedPlugin, record: PluginRecord) -> None:
        """What a running plugin takes without being started anew."""
        if record.policies != hosted.record.policies:
            await hosted.change_policies(record, self._parts.grace)
        if record.breaker != hosted.record.breaker:
            hosted.record = record
            hosted.apply_breaker(record.breaker)

    async def _start(self, record: PluginRecord, wanted: Identity) -> None:
        self._identity = wanted
        self._config_revision = record.config_revision
        self._say(PluginState.STARTING, "enabled")
        try:
            await self._parts.clear(self.plugin)
            hosted = self._parts.host(record, await self._parts.admit(record), self._changed)
            self.hosted = hosted
            await hosted.start()
        except (StorageFailedError, StorageBusyError) as error:
            await self._stop_unstarted()
            self._try_again(error)
        except BusbarError as error:
            _log.error("plugin_not_started", plugin=self.plugin, code=error.word, reason=error.message)
            await self._stop_unstarted()
            self._fail(error)
        else:
            self._look_again.answered()

    async def _stop_unstarted(self) -> None:
        if self.hosted is not None:
            await self.hosted.stop(0)
            self.hosted = None

    async def _stop(self, cause: str) -> None:
        hosted = self.hosted
        if hosted is None:
            return
        self._say(PluginState.STOPPING, cause)
        await hosted.stop(self._parts.grace)
        self.hosted = None
        self._identity = None
        self._status = self._resting(self._registry.find(self.plugin))

    async def _clear(self) -> None:
        """Have the data of a purged plugin taken away; where it cannot be, nothing is started under the id."""
        try:
            await self._parts.clear(self.plugin)
        except BusbarError as error:
            _log.error("data_not_cleared", plugin=self.plugin, code=error.word, reason=error.message)

    async def _reconfigure(self, record: PluginRecord) -> None:
        hosted = self.hosted
        if hosted is None:
            return
        self._config_revision = record.config_revision
        try:
            await hosted.reconfigure(record)
        except Exception as error:  # noqa: BLE001 - a plugin that cannot take config is started anew with it
            _log.warning("config_not_taken", plugin=self.plugin, reason=str(error))
            await self._stop("new config needs a restart")
            await self._start(record, identity_of(record))

    async def _check_again(self, record: PluginRecord, wanted: Identity) -> None:
        """Stop a plugin whose release is no longer believed, or no longer what was signed."""
        try:
            await self._parts.admit(record)
        except (StorageFailedError, StorageBusyError) as error:
            self._try_again(error)  # what runs runs on: nothing was found out about it
        except BusbarError as error:
            _log.error("plugin_stopped", plugin=self.plugin, code=error.word, reason=error.message)
            await self._stop(error.message)
            self._identity = wanted
            self._fail(error)
        else:
            self._look_again.answered()

    # -- upgrades

    async def _upgrade(self, record: PluginRecord) -> None:
        """Have the candidate take over, or say why it does not."""
        if record.candidate_missing_grants:
            if record.last_upgrade is None or record.last_upgrade.outcome is not UpgradeOutcome.WAITING:
                missing = ", ".join(record.candidate_missing_grants)
                await self._registry.wait_for_approval(
                    self.plugin, f"it asks for permissions that are not granted: {missing}"
                )
            return
        if not record.enabled:
            await self._registry.promote(self.plugin, probation=0)
            return
        wanted = record.with_release(record.candidate) if record.candidate else record
        try:
            try:
                release = await self._parts.admit(wanted)
            except (StorageFailedError, StorageBusyError) as error:
                self._try_again(error)
                return
            await self._take_over(wanted, release)
        except BusbarError as error:
            _log.error("upgrade_failed", plugin=self.plugin, version=wanted.version, reason=error.message)
            await self._registry.withdraw(self.plugin, wanted.sha256, error.message)

    async def _take_over(self, wanted: PluginRecord, release: Release) -> None:
        """Start the candidate, beside the current release where they can share the host, and hand over to it.

        Raises:
            BusbarError: it did not get well; the current release runs on, or is started again.
        """
        fresh = self._parts.host(wanted, release, self._changed)
        alone = "inline" in {fresh.isolation, self.hosted.isolation if self.hosted else ""}
        try:
            if alone:
                # Two releases of one package cannot be imported into one process.
                await self._stop("a new release takes its place")
            await self._while_wanted(fresh.prepare(), wanted)
            if self.hosted is not None:
                await self.hosted.hand_over(self._parts.grace)
            record = await self._registry.promote(self.plugin, probation=self._parts.probation)
        except BaseException:  # whatever ended it, a cancellation too: the fresh one must not live on; raised again
            await asyncio.shield(fresh.stop(0))
            if self.hosted is not None and not self.hosted.delivering:
                await self._stop("the upgrade failed")  # and the next look starts it again
            self.poke()
            raise
        old, self.hosted = self.hosted, fresh
        fresh.record = record
        self._identity, self._config_revision = identity_of(record), record.config_revision
        _log.info("plugin_upgraded", plugin=self.plugin, version=record.version)
        try:
            await fresh.take_over(on_probation=record.probation_until is not None)
        except BusbarError as error:
            # The registry names it already: it is stopped and started as any other.
            _log.error("deliveries_not_taken_over", plugin=self.plugin, reason=error.message)
            await self._stop("it could not take the deliveries over")
            self.poke()
        finally:
            if old is not None:
                await asyncio.shield(old.stop(0))

    async def _while_wanted(self, work: Coroutine[Any, Any, None], wanted: PluginRecord) -> None:
        """Do work for the candidate for as long as it is wanted: a disable does not wait for a release that hangs.

        Raises:
            UpgradeFailedError: it is not wanted any more; and what the work raises.
        """
        task = asyncio.create_task(work, name=f"upgrade {self.plugin}")
        poked = False
        try:
            while not task.done():
                look = asyncio.create_task(self._poked.wait(), name=f"look {self.plugin}")
                await asyncio.wait((task, look), return_when=asyncio.FIRST_COMPLETED)
                look.cancel()
                if self._poked.is_set():
                    self._poked.clear()
                    poked = True
                    record = self._registry.find(self.plugin)
                    if record is None or not record.enabled or record.candidate != wanted.current:
                        raise UpgradeFailedError(f"{self.plugin} {wanted.version} is not wanted any more")
            await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            if poked:
                self._poked.set()

    async def _judge_probation(self, record: PluginRecord) -> PluginRecord:
        """Go back to the release before this one, or end its probation, where it is time to."""
        if record.probation_until is None:
            self._going_back = ""
            return record
        if self._going_back and record.previous is not None:
            _log.error("plugin_rolled_back", plugin=self.plugin, version=record.version, reason=self._going_back)
            restored = await self._registry.roll_back(self.plugin, self._going_back)
            self._going_back = ""
            return restored
        if self._parts.clock.now().timestamp() >= record.probation_until:
            if self.hosted is not None:
                await self.hosted.deliveries.drop_others()
            return await self._registry.end_probation(self.plugin)
        return record

    def _changed(self) -> None:
        """Something about the plugin that runs may have changed; on probation, that may be the end of it."""
        record, hosted = self._registry.find(self.plugin), self.hosted
        if record is not None and record.probation_until is not None and hosted is not None and not self._going_back:
            self._going_back = _unwell(hosted)
            if self._going_back:
                self.poke()
        self._told(self.plugin)

    # -- states

    def _stopping(self) -> bool:
        return self._status.state is PluginState.STOPPING

    def _try_again(self, error: StorageFailedError | StorageBusyError) -> None:
        """The machine refused, which says nothing of the plugin: look again, later each time."""
        wait = self._look_again.refused(self._parts.clock.now().timestamp())
        _log.warning("plugin_not_verified", plugin=self.plugin, reason=error.message, again_in_seconds=wait)
        if self.hosted is None:
            self._say(PluginState.BACKING_OFF, error.word, error.message, "try again", self._look_again.at)

    def _fail(self, error: BusbarError) -> None:
        self._say(PluginState.FAILED, error.word, error.message, "mend it, then restart or upgrade the plugin")

    def _resting(self, record: PluginRecord | None = None) -> PluginStatus:
        now = self._parts.clock.now().timestamp()
        if record is not None and record.enabled and record.missing_grants:
            return PluginStatus(
                PluginState.NEEDS_APPROVAL,
                now,
                "the release asks for permissions that are not granted",
                ", ".join(record.missing_grants),
                f"an administrator grants them with PUT /api/v1/plugins/{record.id}/grants",
            )
        return PluginStatus(
            PluginState.DISABLED, now, "not enabled", next_action="POST …/enable starts it" if record else ""
        )

    def _say(
        self,
        state: PluginState,
        cause: str,
        evidence: str = "",
        next_action: str = "",
        next_action_at: float | None = None,
    ) -> None:
        now = self._parts.clock.now().timestamp()
        self._status = PluginStatus(state, now, cause, evidence, next_action, next_action_at)
        self._told(self.plugin)


def _unwell(hosted: HostedPlugin) -> str:
    """Why a release on probation is to be taken back, or nothing."""
    # What it is delivered decides alone: whoever may call it, or reach its routes, must not bring an old release back.
    breaker = hosted.guards.deliveries.breaker.snapshot()
    if breaker.state is BreakerState.OPEN:
        return f"its breaker opened: {breaker.reason}"
    supervised = hosted.supervisor.status
    if supervised.state is SupervisedState.FAILED:
        return f"it failed: {supervised.cause}: {supervised.evidence}"
    return ""
