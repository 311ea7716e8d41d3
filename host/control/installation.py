"""How releases come in: installed anew, taking over from an older one, or going back to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from host.control.errors import (
    NothingToRollBackError,
    PluginInstalledError,
    PluginNotFoundError,
    UpgradeFailedError,
)
from host.control.reconciler import Reconciler
from host.control.records import PluginRecord, ReleaseRecord, UpgradeOutcome
from host.control.registry import Registry
from host.errors import BusbarError
from host.observe.audit import Audit
from host.scheduling.rules import check_rule
from host.supply.installer import Installer, Override, Release
from plugin_sdk.description import Description

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReceivedRelease:
    """A release as it was received: the wheel's bytes, its file name and what was signed about it."""

    wheel: AsyncIterator[bytes]
    filename: str
    attestations: bytes


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """How a release is taken in.

    Attributes:
        enable: Have it run.
        wait: Answer once it runs, or has failed to.
        only: The plugin that it must be a release of, and that must be installed; None for any.
        overrides: Rules that the administrator sets aside for this one release, in the audit trail.
        grant: Grant an upgrade what it asks for beyond what is granted.
    """

    enable: bool = False
    wait: bool = True
    only: str | None = None
    overrides: frozenset[Override] = field(default_factory=frozenset)
    grant: bool = False


class Installation:
    """Takes releases in, on behalf of a named actor."""

    def __init__(
        self,
        *,
        registry: Registry,
        reconciler: Reconciler,
        installer: Installer,
        audit: Audit,
        settle: Callable[[str], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._installer = installer
        self._audit = audit
        self._settle = settle

    async def install(self, received: ReceivedRelease, options: InstallOptions, *, actor: str) -> PluginRecord:
        """Install a signed release, new or over an older one; on any failure the host is as it was.

        One that takes over is started beside the one that runs, and the answer waits until it has, where
        `options.wait` says so.

        Raises:
            SupplyError: a rule of signatures, archives or manifests is broken; the code says which.
            PluginInstalledError: this very release is installed.
            PluginNotFoundError: it is to be an upgrade, and the plugin is not installed.
            UpgradeFailedError: the new release did not take over; the old one runs on.
        """
        taken: list[PluginRecord] = []

        async def commit(release: Release, description: Description) -> None:
            taken.append(await self._commit(release, description, options))

        action = "plugin.upgrade" if options.only is not None else "plugin.install"
        try:
            await self._installer.take(
                received.wheel,
                received.filename,
                received.attestations,
                only=options.only,
                overrides=options.overrides,
                history=self._registry.history,
                commit=commit,
            )
        except BusbarError as error:
            await self._refused(action, received.filename, actor, error)
            raise
        (record,) = taken
        fresh = record.candidate or record.current
        await self._done(
            action,
            record.id,
            actor,
            {
                "version": fresh.version,
                "sha256": fresh.sha256,
                "publisher": fresh.publisher,
                **({"overrides": sorted(one.value for one in options.overrides)} if options.overrides else {}),
                **({"granted": record.granted.model_dump(mode="json")} if options.grant else {}),
            },
        )
        _log.info("plugin_installed", plugin=record.id, version=fresh.version, publisher=fresh.publisher)
        if options.wait:
            await self._settle(record.id)
            if record.candidate is not None:
                await self._upgraded(record.id, fresh)
        return self._registry.get(record.id)

    async def roll_back(self, plugin: str, *, actor: str, wait: bool = True) -> PluginRecord:
        """Have the release before this one take over again.

        Raises:
            NothingToRollBackError: there is none.
            UpgradeFailedError: it did not get well; the current one runs on.
        """
        record = self._registry.get(plugin)
        if record.previous is None:
            raise NothingToRollBackError(f"{plugin} has no earlier release on this host: install one")
        wanted = record.previous
        await self._registry.propose(plugin, wanted, enabled=False)
        await self._done("plugin.rollback", plugin, actor, {"from": record.version, "to": wanted.version})
        if wait:
            await self._settle(plugin)
            await self._upgraded(plugin, wanted)
        return self._registry.get(plugin)

    # -- inside

    async def _commit(self, release: Release, description: Description, options: InstallOptions) -> PluginRecord:
        before = self._registry.find(release.plugin)
        if before is None and options.only is not None:
            raise PluginNotFoundError(options.only)
        if before is not None and before.sha256 == release.sha256:
            raise PluginInstalledError(
                f"{release.plugin} {release.version} is installed already; there is nothing to change"
            )
        for schedule in description.schedules:
            check_rule(schedule)
        if before is None:
            return await self._registry.install(release, description, enabled=options.enable)
        fresh = ReleaseRecord.of(release, description)
        granted = before.granted.together(fresh.permissions) if options.grant else None
        return await self._registry.propose(release.plugin, fresh, enabled=options.enable, granted=granted)

    async def _upgraded(self, plugin: str, wanted: ReleaseRecord) -> None:
        """Say how an upgrade that was waited for has ended."""
        record = self._registry.get(plugin)
        last = record.last_upgrade
        if last is None or last.to_version != wanted.version:
            return
        if last.outcome in {UpgradeOutcome.FAILED, UpgradeOutcome.ROLLED_BACK}:
            raise UpgradeFailedError(f"{plugin} stays at {record.version}: {last.reason}")

    async def _done(self, action: str, target: str, actor: str, detail: dict[str, Any]) -> None:
        await self._audit.record(actor=actor, action=action, target=target, detail=detail, outcome="done")

    async def _refused(self, action: str, target: str, actor: str, error: BusbarError) -> None:
        detail = {"code": error.word, "message": error.message}
        await self._audit.record(actor=actor, action=action, target=target, detail=detail, outcome="refused")
