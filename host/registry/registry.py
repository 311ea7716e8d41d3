"""The registry: the desired state of every plugin, in SQLite, and who wants to hear when it changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import msgspec
import structlog

from host.registry.errors import (
    CandidateChangedError,
    PluginLeavingError,
    PluginNotFoundError,
    RecordDamagedError,
    RegistryTamperedError,
)
from host.registry.records import Origin, PluginRecord, ReleaseRecord, Upgrade, UpgradeOutcome
from host.registry.rows import IDS, SAVE, SELECT, SELECT_PLAIN, damaged_of, record_of, row_of
from host.storage.database import Database
from host.storage.errors import SealBrokenError, StorageBusyError, StorageFailedError
from host.storage.keyring import Keyring
from host.storage.seals import Seal
from host.supply.installer import InstalledVersion, Release
from plugin_sdk.clock import Clock
from plugin_sdk.description import Description
from plugin_sdk.manifest import Permissions

_REMEMBER: Final = (
    "INSERT OR REPLACE INTO plugin_history (id, version, sha256, publisher, sequence, key_id, recorded_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_HISTORY: Final = (
    "SELECT id, version, sha256, publisher, sequence, key_id, recorded_at FROM plugin_history WHERE id = ?"
)
_SEALED: Final = (
    (
        "SELECT id, sha256, version, publisher, sequence, key_id, description, requested, granted, candidate, "
        "previous, origin FROM plugins ORDER BY id"
    ),
    "SELECT id, version, sha256, publisher, sequence, key_id, recorded_at FROM plugin_history ORDER BY id",
)
"""Which code runs with which permissions, and what a plugin id has been: nobody else's to change."""

_log = structlog.get_logger(__name__)


class Registry:
    """Reads and changes the desired state. Every change is one transaction, durable when it returns.

    The records are kept in memory too, so that reading one costs nothing; there is one registry for a
    database, and it alone writes the tables.
    """

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._seal = Seal(database, keyring, "registry", _SEALED)
        self.tampered = ""
        self._records: dict[str, PluginRecord] = {}
        self._leaving: set[str] = set()
        self._listeners: list[Callable[[str], None]] = []
        # A change is computed from the record it replaces, so changes go one after the other.
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read what the database holds, and whether it is what this host wrote; call once, before anything else.

        A row that cannot be read is a record with its `damage`: its plugin does not run, and the others do.
        """
        try:
            await self._seal.check()
        except SealBrokenError as error:
            self.tampered = error.message
            _log.error("registry_tampered", reason=error.message)
        except sqlite3.Error as error:
            self.tampered = f"the registry holds what this host cannot have written: {error}"
            _log.error("registry_tampered", reason=self.tampered)
        records = [await self._read(row["id"]) for row in await self._database.read(IDS)]
        self._records = {record.id: record for record in records}

    async def _read(self, plugin: bytes) -> PluginRecord:
        try:
            (row,) = await self._database.read(SELECT, (plugin,))
            return record_of(row, self._keyring)
        except (StorageFailedError, StorageBusyError):
            raise
        except Exception as error:  # noqa: BLE001 - logged, and shown as the plugin's state
            (row,) = await self._database.read(SELECT_PLAIN, (plugin,))
            record = damaged_of(row, error)
            _log.error("record_damaged", plugin=record.id, reason=record.damage)
            return record

    @property
    def damaged(self) -> bool:
        """Whether a record could not be read, so that not every release is known that is still needed."""
        return any(record.damage for record in self._records.values())

    def listen(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with a plugin's id after each change of its record."""
        self._listeners.append(changed)

    def all(self) -> tuple[PluginRecord, ...]:
        """Every installed plugin, by id."""
        return tuple(self._records[plugin] for plugin in sorted(self._records))

    def find(self, plugin: str) -> PluginRecord | None:
        """The record of a plugin, or None."""
        return self._records.get(plugin)

    def get(self, plugin: str) -> PluginRecord:
        """The record of a plugin.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        found = self._records.get(plugin)
        if found is None:
            raise PluginNotFoundError(plugin)
        return found

    async def history(self, plugin: str) -> InstalledVersion | None:
        """The release that a plugin id has or last had, an uninstalled one included."""
        rows = await self._database.read(_HISTORY, (plugin,))
        if not rows:
            return None
        row = rows[0]
        return InstalledVersion(
            plugin=row["id"],
            version=row["version"],
            sha256=row["sha256"],
            publisher=row["publisher"],
            sequence=row["sequence"],
            key_id=row["key_id"],
            recorded_at=row["recorded_at"],
        )

    async def knows(self, sha256: str) -> bool:
        """Whether this very release is, or was the last, of some plugin id."""
        return bool(await self._database.read("SELECT 1 FROM plugin_history WHERE sha256 = ?", (sha256,)))

    def check_whole(self) -> None:
        """Refuse to act on a registry that someone else wrote into.

        Raises:
            RegistryTamperedError: it was changed behind the host's back.
        """
        if self.tampered:
            raise RegistryTamperedError(
                f"{self.tampered}: look at it with 'busbar plugin list', mend it, then 'busbar publisher confirm'"
            )

    async def confirm(self) -> None:
        """Act on what the registry holds from now on: someone has looked at it and answers for it."""
        async with self._changing:
            await self._seal.renew()
            self.tampered = ""
        for plugin in tuple(self._records):
            self._tell(plugin)

    # -- releases

    async def install(
        self,
        release: Release,
        description: Description,
        *,
        enabled: bool,
        granted: Permissions | None = None,
        origin: Origin | None = None,
    ) -> PluginRecord:
        """Record a release as the one wanted of its plugin; config, secrets and standing grants stay.

        A plugin that is new gets everything its manifest asks for (an administrator installed it), unless
        `granted` says otherwise; one that is replaced keeps what it had.

        Raises:
            PluginLeavingError: what was there under its id is not cleared away yet.
        """
        async with self._changing:
            if release.plugin in self._leaving:
                raise PluginLeavingError(release.plugin)
            record = self._next(release, description, enabled=enabled, granted=granted)
            return await self._save(replace(record, origin=origin or record.origin), remember=True)

    async def propose(
        self,
        plugin: str,
        release: ReleaseRecord,
        *,
        enabled: bool,
        granted: Permissions | None = None,
        origin: Origin | None = None,
    ) -> PluginRecord:
        """Record a release that is to take over from the current one, once it has shown that it runs.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        async with self._changing:
            record = self._readable(plugin)
            record = replace(
                record,
                candidate=release,
                enabled=enabled or record.enabled,
                granted=granted or record.granted,
                origin=origin or record.origin,
                last_upgrade=self._upgrade(UpgradeOutcome.TRYING, record.version, release.version, ""),
            )
            return await self._save(record)

    async def promote(self, plugin: str, candidate: str, *, probation: float) -> PluginRecord:
        """The candidate of this hash is the current release from now on, for `probation` seconds on probation.

        The release before it keeps the config that it ran with, to go back to.

        Raises:
            PluginNotFoundError: it is not installed.
            CandidateChangedError: it has another candidate by now, or none.
        """
        async with self._changing:
            record = self._readable(plugin)
            fresh = record.candidate
            if fresh is None or fresh.sha256 != candidate:
                raise CandidateChangedError(plugin)
            outcome = UpgradeOutcome.PROBATION if probation else UpgradeOutcome.DONE
            until = self._clock.now().timestamp() + probation if probation else None
            changed = replace(
                record.with_release(fresh),
                candidate=None,
                previous=msgspec.structs.replace(record.current, config=record.config),
                probation_until=until,
                last_upgrade=self._upgrade(outcome, record.version, fresh.version, ""),
            )
            return await self._save(changed, remember=True)

    async def withdraw(self, plugin: str, candidate: str, reason: str) -> None:
        """The candidate of this hash does not take over, because of `reason`; the current release stays.

        Nothing is done where the plugin is gone, or has another candidate by now.
        """
        async with self._changing:
            record = self._records.get(plugin)
            if record is None or record.candidate is None or record.candidate.sha256 != candidate:
                return
            upgrade = self._upgrade(UpgradeOutcome.FAILED, record.version, record.candidate.version, reason)
            await self._save(replace(record, candidate=None, last_upgrade=upgrade))

    async def roll_back(self, plugin: str, reason: str) -> PluginRecord:
        """The previous release is the current one again, with the config that it ran with, because of `reason`.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        async with self._changing:
            record = self._readable(plugin)
            if record.previous is None:
                raise ValueError(f"{plugin} has no previous release")
            record = replace(
                record.with_release(record.previous),
                previous=None,
                probation_until=None,
                last_upgrade=self._upgrade(UpgradeOutcome.ROLLED_BACK, record.previous.version, record.version, reason),
            )
            return await self._save(record)

    async def wait_for_approval(self, plugin: str, reason: str) -> PluginRecord:
        """The candidate waits for an administrator, because of `reason`.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        async with self._changing:
            record = self._readable(plugin)
            wanted = record.version if record.candidate is None else record.candidate.version
            upgrade = self._upgrade(UpgradeOutcome.WAITING, record.version, wanted, reason)
            return await self._save(replace(record, last_upgrade=upgrade))

    async def end_probation(self, plugin: str) -> PluginRecord:
        """The current release has shown that it does.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        async with self._changing:
            record = self._readable(plugin)
            last = record.last_upgrade
            if last is not None and last.outcome is UpgradeOutcome.PROBATION:
                last = self._upgrade(UpgradeOutcome.DONE, last.from_version, last.to_version, "")
            return await self._save(replace(record, last_upgrade=last, probation_until=None))

    def _upgrade(self, outcome: UpgradeOutcome, before: str, after: str, reason: str) -> Upgrade:
        return Upgrade(outcome, before, after, reason, self._clock.now().timestamp())

    def _next(
        self, release: Release, description: Description, *, enabled: bool, granted: Permissions | None
    ) -> PluginRecord:
        now = self._clock.now().timestamp()
        requested = release.manifest.permissions
        before = None if release.plugin not in self._records else self._readable(release.plugin)
        if granted is None:
            granted = requested if before is None else before.granted
        return PluginRecord(
            id=release.plugin,
            sha256=release.sha256,
            version=release.version,
            publisher=release.publisher,
            sequence=release.sequence,
            title=release.manifest.plugin.title,
            description=description,
            requested=requested,
            granted=granted,
            config={} if before is None else before.config,
            secrets={} if before is None else before.secrets,
            enabled=enabled or (before is not None and before.enabled),
            generation=0 if before is None else before.generation + 1,
            config_revision=0 if before is None else before.config_revision,
            breaker="auto" if before is None else before.breaker,
            policies={} if before is None else before.policies,
            requires=release.manifest.plugin.requires,
            origin=None if before is None else before.origin,
            key_id=release.key_id,
            installed_at=now if before is None else before.installed_at,
            changed_at=now,
        )

    async def change(self, plugin: str, **changes: Any) -> PluginRecord:
        """Replace fields of a record.

        Raises:
            PluginNotFoundError: it is not installed.
            RecordDamagedError: its row cannot be read. Every change but `remove` is refused then.
        """
        async with self._changing:
            return await self._save(replace(self._readable(plugin), **changes))

    @contextmanager
    def leaving(self, plugin: str) -> Iterator[None]:
        """For as long as this is open nothing is installed under this id: what is cleared away is not the next one's.

        Raises:
            PluginLeavingError: somebody else uninstalls it already.
        """
        if plugin in self._leaving:
            raise PluginLeavingError(plugin)
        self._leaving.add(plugin)
        try:
            yield
        finally:
            self._leaving.discard(plugin)

    async def remove(self, plugin: str, *, purge: bool) -> None:
        """Forget a plugin; `purge` drops which version and publisher it had, too.

        Its keys, values and data folder are to go from then on, which `Purges` sees to.
        A plugin that was uninstalled before can still be purged.

        Raises:
            PluginNotFoundError: it is not installed, and nothing is left of it.
        """
        async with self._changing:
            if plugin not in self._records and (not purge or await self.history(plugin) is None):
                raise PluginNotFoundError(plugin)

            def write(connection: sqlite3.Connection) -> None:
                connection.execute("DELETE FROM plugins WHERE id = ?", (plugin,))
                if purge:
                    connection.execute("INSERT OR IGNORE INTO purges (plugin) VALUES (?)", (plugin,))
                    connection.execute("DELETE FROM plugin_history WHERE id = ?", (plugin,))

            await self._write(write)
            self._records.pop(plugin, None)
            self._tell(plugin)

    # -- inside

    def _readable(self, plugin: str) -> PluginRecord:
        """A record that can be changed.

        Raises:
            PluginNotFoundError, RecordDamagedError: there is none, or its row cannot be read.
        """
        record = self.get(plugin)
        if record.damage:
            raise RecordDamagedError(plugin, record.damage)
        return record

    async def _save(self, record: PluginRecord, *, remember: bool = False) -> PluginRecord:
        """Write a record, and where asked that its release is what the plugin id has been."""
        record = replace(record, changed_at=self._clock.now().timestamp())
        row = row_of(record, self._keyring)
        seen = (
            record.id,
            record.version,
            record.sha256,
            record.publisher,
            record.sequence,
            record.key_id,
            record.changed_at,
        )

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(SAVE, row)
            if remember:
                connection.execute(_REMEMBER, seen)

        await self._write(write)
        self._changed(record)
        return record

    async def _write(self, write: Callable[[sqlite3.Connection], None]) -> None:
        """One transaction with its seal; a registry that was tampered with is not sealed by the way."""
        self.check_whole()

        def sealed(connection: sqlite3.Connection) -> int:
            write(connection)
            return self._seal.stamp(connection)

        await self._seal.keep(await self._database.write(sealed))

    def _changed(self, record: PluginRecord) -> None:
        self._records[record.id] = record
        self._tell(record.id)

    def _tell(self, plugin: str) -> None:
        for listener in self._listeners:
            try:
                listener(plugin)
            except Exception:  # noqa: BLE001 - logged with its traceback; the change is durable, and others must hear of it
                _log.exception("registry_listener_failed", plugin=plugin)
