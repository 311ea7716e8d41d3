"""What stands between the registry and a start: the release is verified again, with today's trust, every time."""

from __future__ import annotations

from typing import Final

import structlog

from host.errors import BusbarError
from host.observe.audit import Audit
from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.routing.bus import Bus
from host.storage.errors import StorageBusyError, StorageFailedError
from host.supply.errors import ReleaseRefusedError
from host.supply.installer import Installer, Release

ACTOR: Final = "host"

_log = structlog.get_logger(__name__)


class ReleaseGate:
    """Lets releases run, or says loudly why not: in the audit trail, and as an event of the host."""

    def __init__(self, registry: Registry, installer: Installer, audit: Audit, bus: Bus) -> None:
        self._registry = registry
        self._installer = installer
        self._audit = audit
        self._bus = bus
        self._refused: dict[str, tuple[str, str]] = {}

    async def verify(self, record: PluginRecord) -> Release:
        """The verified release that a record names.

        Raises:
            BusbarError: the registry or the trust store was tampered with, or the release breaks a rule now.
            StorageFailedError, StorageBusyError: the machine refuses to read it. That says nothing of the release, and
                nothing is said of it: the caller tries again.
        """
        try:
            self._registry.check_whole()
            release = await self._installer.verify_installed(record.sha256)
            if (release.plugin, release.version) != (record.id, record.version):
                raise ReleaseRefusedError(
                    "modified", f"the registry names {release.plugin} {release.version} as {record.id} {record.version}"
                )
        except (StorageFailedError, StorageBusyError):
            raise
        except BusbarError as error:
            await self._say(record, error)
            raise
        self._refused.pop(record.id, None)
        for warning in release.warnings:
            _log.warning("release_trusted_with_warning", plugin=record.id, warning=warning)
        return release

    async def _say(self, record: PluginRecord, error: BusbarError) -> None:
        """Once for each release and reason: what is looked at again and again must not flood the trail."""
        about = (record.sha256, error.word)
        if self._refused.get(record.id) == about:
            return
        self._refused[record.id] = about
        detail = {"code": error.word, "message": error.message, "version": record.version, "release": record.sha256}
        try:
            await self._audit.record(
                actor=ACTOR, action="plugin.start", target=record.id, detail=detail, outcome="refused"
            )
            await self._bus.announce("release.refused", subject=record.id, data={"plugin": record.id, **detail})
        except BusbarError as failed:
            _log.warning("refusal_not_announced", plugin=record.id, error=failed.message)
