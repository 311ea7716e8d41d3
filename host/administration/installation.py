"""How releases come in: installed anew, taking over from an older one, or going back to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import structlog
from packaging.utils import canonicalize_name

from host.administration.errors import NothingToRollBackError, PluginInstalledError
from host.errors import BusbarError
from host.lifecycle.errors import UpgradeFailedError
from host.lifecycle.reconciler import Reconciler
from host.observe.audit import Audit
from host.registry.errors import PluginNotFoundError
from host.registry.records import Origin, PluginRecord, ReleaseRecord, UpgradeOutcome
from host.registry.registry import Registry
from host.scheduling.rules import check_rule
from host.storage.beneath import open_plain
from host.supply.index.errors import RequirementRefusedError
from host.supply.index.index_client import Indexes
from host.supply.index.requirements import parse_requirement
from host.supply.installer import InstalledVersion, Installer, Override, ReceivedRelease, Release
from host.supply.release_store import BILL, SCAN
from plugin_sdk.description import Description

CHUNK: Final = 256 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """How a release is taken in.

    Attributes:
        enable: Have it run.
        wait: Answer once it runs, or has failed to.
        only: The plugin that it must be a release of, and that must be installed; None for any.
        overrides: Rules that the administrator sets aside for this one release, in the audit trail.
        grant: Grant an upgrade what it asks for beyond what is granted.
        origin: The index that it comes from; None for an upload.
    """

    enable: bool = False
    wait: bool = True
    only: str | None = None
    overrides: frozenset[Override] = field(default_factory=frozenset)
    grant: bool = False
    origin: Origin | None = None


class Installation:
    """Takes releases in, on behalf of a named actor."""

    def __init__(
        self,
        *,
        registry: Registry,
        reconciler: Reconciler,
        installer: Installer,
        indexes: Indexes,
        spool: Path,
        max_wheel: int,
        audit: Audit,
        wait_until_upgraded: Callable[[str], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._installer = installer
        self._indexes = indexes
        self._spool = spool
        self._max_wheel = max_wheel
        self._audit = audit
        self._wait_until_upgraded = wait_until_upgraded

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
                received,
                only=options.only,
                overrides=options.overrides,
                history=self._history,
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
            await self._wait_until_upgraded(record.id)
            if record.candidate is not None:
                await self._upgraded(record.id, fresh)
        return self._registry.get(record.id)

    async def install_required(self, text: str, options: InstallOptions, *, actor: str) -> PluginRecord:
        """Install the best release that fits a requirement, such as `name>=1,<2`, from the index that has the plugin.

        Raises:
            SupplyError: the requirement is none, no index has it, the index is not to be believed, and as `install`.
            PluginInstalledError: what would be installed is.
        """
        try:
            requirement = parse_requirement(text)
            plugin = canonicalize_name(requirement.name)
            record = self._registry.find(plugin)
            if options.only is not None and options.only != plugin:
                raise RequirementRefusedError(f"'{text}' asks for {plugin}, not for {options.only}")
            origin = None if record is None else record.origin
            candidate = await self._indexes.find(
                requirement,
                bound_to=None if origin is None else origin.index,
                newest=None if origin is None or Override.DOWNGRADE in options.overrides else origin.newest,
            )
            if record is not None and record.version == str(candidate.version):
                raise PluginInstalledError(f"{plugin} {record.version} is installed already, and the best that fits")
        except BusbarError as error:
            await self._refused("plugin.install", text, actor, error)
            raise
        with TemporaryDirectory(dir=self._spool, prefix="fetched-") as folder:
            try:
                fetched = await self._indexes.fetch(
                    candidate,
                    Path(folder),
                    self._max_wheel,
                    attested=origin is not None and origin.attested,
                )
            except BusbarError as error:
                await self._refused("plugin.install", f"{plugin} {candidate.version}", actor, error)
                raise
            for warning in fetched.warnings:
                _log.warning("release_fetched_with_warning", plugin=plugin, warning=warning)
            received = ReceivedRelease(
                chunks_of(fetched.wheel), fetched.filename, fetched.attestations, fetched.metadata_sha256
            )
            shown = Origin(fetched.index, candidate.newest, attested=bool(fetched.attestations))
            return await self.install(received, replace(options, origin=shown), actor=actor)

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
            await self._wait_until_upgraded(plugin)
            await self._upgraded(plugin, wanted)
        return self._registry.get(plugin)

    async def scan_report(self, plugin: str) -> dict[str, Any]:
        """The report of the scan of the release that is installed.

        Raises:
            PluginNotFoundError: it is not installed.
            PaperNotFoundError: no report is kept.
        """
        found = await self._installer.paper(self._registry.get(plugin).sha256, SCAN)
        report: dict[str, Any] = msgspec.json.decode(found)
        return report

    async def bill_of_materials(self, plugin: str) -> bytes:
        """The bill of materials of the release that is installed, as CycloneDX; errors as in `scan_report`."""
        return await self._installer.paper(self._registry.get(plugin).sha256, BILL)

    # -- inside

    async def _history(self, plugin: str) -> InstalledVersion | None:
        """What the plugin id has been; asked before anything of a release is read, so it says who may not be asked.

        Raises:
            RegistryTamperedError: the registry was changed behind the host's back, and a history may be gone from it.
        """
        self._registry.check_whole()
        return await self._registry.history(plugin)

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
            return await self._registry.install(release, description, enabled=options.enable, origin=options.origin)
        fresh = ReleaseRecord.of(release, description)
        granted = before.granted.together(fresh.permissions) if options.grant else None
        return await self._registry.propose(
            release.plugin, fresh, enabled=options.enable, granted=granted, origin=options.origin
        )

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


async def chunks_of(path: Path) -> AsyncIterator[bytes]:
    """A file, piece by piece."""
    file = await asyncio.to_thread(lambda: os.fdopen(open_plain(path), "rb"))
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
    finally:
        await asyncio.to_thread(file.close)
