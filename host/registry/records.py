"""What the registry holds of a plugin: what is wanted of it, and its releases: current, candidate and previous."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec

from host.supply.installer import Release
from plugin_sdk.description import Description
from plugin_sdk.manifest import Permissions


class ReleaseRecord(msgspec.Struct, frozen=True):
    """One release of a plugin as the registry knows it.

    `requested` has the permissions of its manifest, `key_id` is the key that signed it. `config` is what it ran with,
    and gets back where it takes over again; None where it is to take the config that the plugin has by then.
    """

    sha256: str
    version: str
    publisher: str
    sequence: int
    title: str
    description: Description
    requested: dict[str, Any]
    requires: tuple[str, ...]
    key_id: str = ""
    config: dict[str, Any] | None = None

    @classmethod
    def of(cls, release: Release, description: Description) -> ReleaseRecord:
        """The record of a release that was taken in."""
        return cls(
            sha256=release.sha256,
            version=release.version,
            publisher=release.publisher,
            sequence=release.sequence,
            title=release.manifest.plugin.title,
            description=description,
            requested=release.manifest.permissions.model_dump(mode="json"),
            requires=release.manifest.plugin.requires,
            key_id=release.key_id,
        )

    @property
    def permissions(self) -> Permissions:
        """What the release asks for."""
        return Permissions.model_validate(self.requested)


class Origin(msgspec.Struct, frozen=True):
    """The index that a plugin is bound to; nothing of the plugin comes from another one.

    `newest` is the highest final version that the index has shown, and `attested` whether it has shown attestations:
    an index that shows less than before is not believed.
    """

    index: str
    newest: str | None
    attested: bool


class UpgradeOutcome(Enum):
    """How far the last upgrade or rollback has got."""

    WAITING = "needs-approval"
    TRYING = "starting"
    PROBATION = "probation"
    DONE = "done"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


class Upgrade(msgspec.Struct, frozen=True):
    """The last upgrade of a plugin, and why it went as it did. `at` is in seconds since the epoch."""

    outcome: UpgradeOutcome
    from_version: str
    to_version: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """What is wanted of one plugin.

    `generation` grows with every asked-for restart, `config_revision` with every change of config;
    `breaker` is an operator's standing override, or `auto`; `policies` are fields of delivery policies that an
    administrator overrides, by the name of the subscription; `requires` has the plugins that the release needs.

    `candidate` is a release that is to take over, `previous` the one to go back to, and until `probation_until`
    the host does so by itself. `origin` is the index it came from, None where it was uploaded. `key_id` is the key that
    signed the release.

    `damage` says why its row cannot be read, where it cannot: what else the record has is then what could be, and
    nothing runs by it.
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
    candidate: ReleaseRecord | None = None
    previous: ReleaseRecord | None = None
    probation_until: float | None = None
    last_upgrade: Upgrade | None = None
    origin: Origin | None = None
    key_id: str = ""
    damage: str = ""

    @property
    def current(self) -> ReleaseRecord:
        """The release that runs when the plugin runs."""
        return ReleaseRecord(
            sha256=self.sha256,
            version=self.version,
            publisher=self.publisher,
            sequence=self.sequence,
            title=self.title,
            description=self.description,
            requested=self.requested.model_dump(mode="json"),
            requires=self.requires,
            key_id=self.key_id,
        )

    def with_release(self, release: ReleaseRecord) -> PluginRecord:
        """The same plugin with another release as its current one; one that has a config of its own brings it back.

        Secrets stay as they are: what the world outside takes today is not a release's own.
        """
        back = release.config is not None and release.config != self.config
        return replace(
            self,
            config=release.config if back and release.config is not None else self.config,
            config_revision=self.config_revision + back,
            sha256=release.sha256,
            version=release.version,
            publisher=release.publisher,
            sequence=release.sequence,
            title=release.title,
            description=release.description,
            requested=release.permissions,
            requires=release.requires,
            key_id=release.key_id,
        )

    @property
    def releases(self) -> frozenset[str]:
        """Hashes of every release that this plugin may still need."""
        return frozenset({self.sha256, *(one.sha256 for one in (self.candidate, self.previous) if one is not None)})

    @property
    def missing_grants(self) -> tuple[str, ...]:
        """What the release asks for and nobody has granted."""
        return self.requested.beyond(self.granted)

    @property
    def candidate_missing_grants(self) -> tuple[str, ...]:
        """What the candidate asks for and nobody has granted."""
        return () if self.candidate is None else self.candidate.permissions.beyond(self.granted)

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
