"""Rows of the table of plugins: how a record becomes one, and is read back."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, TypeVar

import msgspec
from packaging.requirements import Requirement

from host.errors import printable, shortened
from host.registry.records import Origin, PluginRecord, ReleaseRecord, Upgrade
from host.storage.keyring import Keyring
from plugin_sdk.description import Description
from plugin_sdk.filters import compile_filters
from plugin_sdk.manifest import Permissions

T = TypeVar("T")

MAX_DAMAGE: Final = 500
"""Characters of why a row cannot be read."""

_NAMES: Final = (
    "id",
    "sha256",
    "version",
    "publisher",
    "sequence",
    "title",
    "description",
    "requested",
    "granted",
    "config",
    "secrets",
    "enabled",
    "generation",
    "config_revision",
    "breaker",
    "policies",
    "requires",
    "installed_at",
    "changed_at",
    "candidate",
    "previous",
    "probation_until",
    "last_upgrade",
    "origin",
    "key_id",
)
IDS: Final = "SELECT CAST(id AS BLOB) AS id FROM plugins"
"""Every plugin; as bytes, for somebody may have written what is no text."""
SELECT: Final = f"SELECT {', '.join(_NAMES)} FROM plugins WHERE CAST(id AS BLOB) = ?"
_TEXTS: Final = ("id", "sha256", "version", "publisher", "title", "breaker", "key_id")
_NUMBERS: Final = ("sequence", "enabled", "generation", "config_revision", "installed_at", "changed_at")
SELECT_PLAIN: Final = (
    f"SELECT {', '.join([*(f'CAST({name} AS BLOB) AS {name}' for name in _TEXTS), *_NUMBERS])} FROM plugins "
    "WHERE CAST(id AS BLOB) = ?"
)
"""What can be read of a row, whatever somebody wrote into it."""
SAVE: Final = f"INSERT OR REPLACE INTO plugins ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"


def row_of(record: PluginRecord, keyring: Keyring) -> tuple[Any, ...]:
    """The row of a record, its secrets sealed; what `SAVE` takes."""
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
        keyring.seal(msgspec.json.encode(record.secrets).decode(), f"plugin:{record.id}"),
        int(record.enabled),
        record.generation,
        record.config_revision,
        record.breaker,
        msgspec.json.encode(record.policies).decode(),
        msgspec.json.encode(record.requires).decode(),
        record.installed_at,
        record.changed_at,
        *(None if one is None else msgspec.json.encode(one) for one in (record.candidate, record.previous)),
        record.probation_until,
        *(None if one is None else msgspec.json.encode(one) for one in (record.last_upgrade, record.origin)),
        record.key_id,
    )


def record_of(row: sqlite3.Row, keyring: Keyring) -> PluginRecord:
    """The record of a row of `SELECT`.

    Raises:
        KeyringError: its secrets were sealed with another key, or altered.
        ValueError: a column holds something else than this host writes.
    """
    secrets = keyring.open(row["secrets"], f"plugin:{row['id']}")
    description = msgspec.json.decode(row["description"], type=Description)
    for subscription in description.subscriptions:
        compile_filters(subscription.filters)
    requires = msgspec.json.decode(row["requires"], type=tuple[str, ...])
    for requirement in requires:
        Requirement(requirement)  # others look at what this one needs
    return PluginRecord(
        id=row["id"],
        sha256=row["sha256"],
        version=row["version"],
        publisher=row["publisher"],
        sequence=row["sequence"],
        title=row["title"],
        description=description,
        requested=Permissions.model_validate_json(row["requested"]),
        granted=Permissions.model_validate_json(row["granted"]),
        config=msgspec.json.decode(row["config"], type=dict[str, Any]),
        secrets=msgspec.json.decode(secrets, type=dict[str, str]),
        enabled=bool(row["enabled"]),
        generation=row["generation"],
        config_revision=row["config_revision"],
        breaker=row["breaker"],
        policies=msgspec.json.decode(row["policies"], type=dict[str, dict[str, Any]]),
        requires=requires,
        installed_at=row["installed_at"],
        changed_at=row["changed_at"],
        candidate=_decoded(row["candidate"], ReleaseRecord),
        previous=_decoded(row["previous"], ReleaseRecord),
        probation_until=row["probation_until"],
        last_upgrade=_decoded(row["last_upgrade"], Upgrade),
        origin=_decoded(row["origin"], Origin),
        key_id=row["key_id"],
    )


def damaged_of(row: sqlite3.Row, error: Exception) -> PluginRecord:
    """The record of a row of `SELECT_PLAIN` that `record_of` could not read.

    It says who it is and why; it asks for nothing, and has nothing.
    """
    texts = {name: bytes(row[name]).decode(errors="backslashreplace") for name in _TEXTS}
    reason = printable(shortened(f"{type(error).__name__}: {error}", MAX_DAMAGE))
    return PluginRecord(
        id=texts["id"],
        sha256=texts["sha256"],
        version=texts["version"],
        publisher=texts["publisher"],
        sequence=row["sequence"],
        title=texts["title"],
        description=Description(),
        requested=Permissions(),
        granted=Permissions(),
        config={},
        secrets={},
        enabled=bool(row["enabled"]),
        generation=row["generation"],
        config_revision=row["config_revision"],
        breaker=texts["breaker"],
        policies={},
        requires=(),
        installed_at=row["installed_at"],
        changed_at=row["changed_at"],
        key_id=texts["key_id"],
        damage=reason,
    )


def _decoded(blob: bytes | None, kind: type[T]) -> T | None:
    return None if blob is None else msgspec.json.decode(blob, type=kind)
