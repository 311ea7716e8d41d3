"""The registry: the desired state of every plugin, in SQLite, and who wants to hear when it changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from host.control import key_values
from host.control.errors import PluginNotFoundError
from host.storage.database import Database
from host.storage.keyring import Keyring
from host.supply.installer import InstalledVersion, Release
from plugin_sdk.clock import Clock
from plugin_sdk.description import Description
from plugin_sdk.manifest import Permissions

_COLUMNS: Final = (
    "id, sha256, version, publisher, sequence, title, description, requested, granted, config, secrets, "
    "enabled, generation, config_revision, breaker, policies, requires, installed_at, "
    "changed_at"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM plugins"
_SAVE: Final = f"INSERT OR REPLACE INTO plugins ({_COLUMNS}) VALUES ({', '.join('?' * 19)})"
_REMEMBER: Final = (
    "INSERT OR REPLACE INTO plugin_history (id, version, sha256, publisher, sequence) VALUES (?, ?, ?, ?, ?)"
)
_HISTORY: Final = "SELECT id, version, sha256, publisher, sequence FROM plugin_history WHERE id = ?"


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """What is wanted of one plugin.

    `generation` grows with every asked-for restart, `config_revision` with every change of config;
    `breaker` is an operator's standing override, or `auto`; `policies` are fields of delivery policies that an
    administrator overrides, by the name of the subscription; `requires` has the plugins that the release needs.
    """

    id: str
    sha256: str
    version: str
    publisher: str
    sequence: int
    title: str
    description: Description
    requested: Permissions
    granted: Permissions
    config: dict[str, Any]
    secrets: dict[str, str]
    enabled: bool
    generation: int
    config_revision: int
    breaker: str
    policies: dict[str, dict[str, Any]]
    requires: tuple[str, ...]
    installed_at: float
    changed_at: float

    @property
    def missing_grants(self) -> tuple[str, ...]:
        """What the release asks for and nobody has granted."""
        return self.requested.beyond(self.granted)

    @property
    def secret_fields(self) -> frozenset[str]:
        """Top-level fields of the plugin's config model that are secrets (`SecretStr`, writeOnly in the schema)."""
        properties = (self.description.config_schema or {}).get("properties", {})
        return frozenset(name for name, field in properties.items() if field.get("writeOnly"))

    @property
    def effective_config(self) -> dict[str, Any]:
        """The config as the plugin's model gets it, its secret fields filled in."""
        fields = self.secret_fields
        return {**self.config, **{name: value for name, value in self.secrets.items() if name in fields}}

    @property
    def granted_secrets(self) -> dict[str, str]:
        """The secrets that the manifest asks for, are granted, and are set."""
        return {name: value for name, value in self.secrets.items() if name in self.granted.secrets}


class Registry:
    """Reads and changes the desired state. Every change is one transaction, durable when it returns.

    The records are kept in memory too, so that reading one costs nothing; there is one registry for a
    database, and it alone writes the tables.
    """

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._records: dict[str, PluginRecord] = {}
        self._listeners: list[Callable[[str], None]] = []
        # A change is computed from the record it replaces, so changes go one after the other.
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read what the database holds; call once, before anything else."""
        rows = await self._database.read(_SELECT)
        self._records = {row["id"]: self._record(row) for row in rows}

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
        return InstalledVersion(row["id"], row["version"], row["sha256"], row["publisher"], row["sequence"])

    async def knows(self, sha256: str) -> bool:
        """Whether this very release is, or was the last, of some plugin id."""
        return bool(await self._database.read("SELECT 1 FROM plugin_history WHERE sha256 = ?", (sha256,)))

    async def install(
        self, release: Release, description: Description, *, enabled: bool, granted: Permissions | None = None
    ) -> PluginRecord:
        """Record a release as the one wanted of its plugin; config, secrets and standing grants stay.

        A plugin that is new gets everything its manifest asks for (an administrator installed it), unless
        `granted` says otherwise; one that is replaced keeps what it had.
        """
        async with self._changing:
            record = self._next(release, description, enabled=enabled, granted=granted)
            row = self._row(record)
            seen = (record.id, record.version, record.sha256, record.publisher, record.sequence)

            def write(connection: sqlite3.Connection) -> None:
                connection.execute(_SAVE, row)
                connection.execute(_REMEMBER, seen)

            await self._database.write(write)
            self._changed(record)
        return record

    def _next(
        self, release: Release, description: Description, *, enabled: bool, granted: Permissions | None
    ) -> PluginRecord:
        now = self._clock.now().timestamp()
        requested = release.manifest.permissions
        before = self._records.get(release.plugin)
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
            installed_at=now if before is None else before.installed_at,
            changed_at=now,
        )

    async def change(self, plugin: str, **changes: Any) -> PluginRecord:
        """Replace fields of a record.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        async with self._changing:
            record = replace(self.get(plugin), **changes, changed_at=self._clock.now().timestamp())
            row = self._row(record)
            await self._database.write(lambda connection: _execute(connection, _SAVE, row))
            self._changed(record)
        return record

    async def remove(self, plugin: str, *, purge: bool) -> None:
        """Forget a plugin; `purge` drops its keys and values too, and which version and publisher it had.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        self.get(plugin)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM plugins WHERE id = ?", (plugin,))
            if purge:
                key_values.purge(connection, plugin)
                connection.execute("DELETE FROM plugin_history WHERE id = ?", (plugin,))

        await self._database.write(write)
        self._records.pop(plugin, None)
        self._tell(plugin)

    def _changed(self, record: PluginRecord) -> None:
        self._records[record.id] = record
        self._tell(record.id)

    def _tell(self, plugin: str) -> None:
        for listener in self._listeners:
            listener(plugin)

    def _row(self, record: PluginRecord) -> tuple[Any, ...]:
        return (
            record.id,
            record.sha256,
            record.version,
            record.publisher,
            record.sequence,
            record.title,
            msgspec.json.encode(record.description),
            record.requested.model_dump_json(),
            record.granted.model_dump_json(),
            msgspec.json.encode(record.config).decode(),
            self._keyring.seal(msgspec.json.encode(record.secrets).decode(), f"plugin:{record.id}"),
            int(record.enabled),
            record.generation,
            record.config_revision,
            record.breaker,
            msgspec.json.encode(record.policies).decode(),
            msgspec.json.encode(record.requires).decode(),
            record.installed_at,
            record.changed_at,
        )

    def _record(self, row: sqlite3.Row) -> PluginRecord:
        secrets = self._keyring.open(row["secrets"], f"plugin:{row['id']}")
        return PluginRecord(
            id=row["id"],
            sha256=row["sha256"],
            version=row["version"],
            publisher=row["publisher"],
            sequence=row["sequence"],
            title=row["title"],
            description=msgspec.json.decode(row["description"], type=Description),
            requested=Permissions.model_validate_json(row["requested"]),
            granted=Permissions.model_validate_json(row["granted"]),
            config=msgspec.json.decode(row["config"]),
            secrets=msgspec.json.decode(secrets, type=dict[str, str]),
            enabled=bool(row["enabled"]),
            generation=row["generation"],
            config_revision=row["config_revision"],
            breaker=row["breaker"],
            policies=msgspec.json.decode(row["policies"]),
            requires=msgspec.json.decode(row["requires"], type=tuple[str, ...]),
            installed_at=row["installed_at"],
            changed_at=row["changed_at"],
        )


def _execute(connection: sqlite3.Connection, sql: str, parameters: tuple[Any, ...]) -> None:
    connection.execute(sql, parameters)
