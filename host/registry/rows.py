"""Rows of the table of plugins: how a record becomes one, and is read back."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, TypeVar

import msgspec

from host.registry.records import Origin, PluginRecord, ReleaseRecord, Upgrade
from host.storage.keyring import Keyring
from plugin_sdk.description import Description
from plugin_sdk.manifest import Permissions

T = TypeVar("T")

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
SELECT: Final = f"SELECT {', '.join(_NAMES)} FROM plugins"
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
    """
    secrets = keyring.open(row["secrets"], f"plugin:{row['id']}")
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
        candidate=_decoded(row["candidate"], ReleaseRecord),
        previous=_decoded(row["previous"], ReleaseRecord),
        probation_until=row["probation_until"],
        last_upgrade=_decoded(row["last_upgrade"], Upgrade),
        origin=_decoded(row["origin"], Origin),
        key_id=row["key_id"],
    )


def _decoded(blob: bytes | None, kind: type[T]) -> T | None:
    return None if blob is None else msgspec.json.decode(blob, type=kind)
