"""What a hosted plugin runs with, apart from what is wanted of it: its keeper compares both until they are equal.

Only the step that brought a change to the plugin says that it has it. Whoever takes a change for applied because it was
asked for loses it where that step fails, or where another release is getting ready meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from host.registry.records import PluginRecord


@dataclass(frozen=True, slots=True)
class Identity:
    """What a plugin is started from; where it differs from what is wanted, the plugin is started anew."""

    sha256: str
    generation: int
    granted: str


@dataclass(frozen=True, slots=True)
class GivenConfig:
    """Config and secrets as the plugin's code has them; its numbers grow with each change."""

    revision: int
    config: dict[str, Any] = field(repr=False)
    secrets: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a hosted plugin runs with, or what it should run with.

    `config` is None where no runtime was made yet. `policies` and `breaker` are as in a `PluginRecord`.
    """

    identity: Identity
    config: GivenConfig | None
    policies: dict[str, dict[str, Any]]
    breaker: str


def identity_of(record: PluginRecord) -> Identity:
    """What the registry wants a plugin to be started from."""
    return Identity(record.sha256, record.generation, record.granted.model_dump_json())


def config_of(record: PluginRecord) -> GivenConfig:
    """The config and the secrets that the registry wants a plugin to have."""
    return GivenConfig(record.config_revision, record.effective_config, record.granted_secrets)


def wanted_of(record: PluginRecord) -> Applied:
    """What the registry wants a plugin to run with."""
    return Applied(identity_of(record), config_of(record), record.policies, record.breaker)


def wanted_candidate(record: PluginRecord | None) -> str | None:
    """The hash of the release that is to get ready to take over, or None."""
    if record is None or not record.enabled or record.candidate is None or record.candidate_missing_grants:
        return None
    return record.candidate.sha256


def wanted_identity(record: PluginRecord | None) -> Identity | None:
    """What a plugin is to be started from; None where it is not to run."""
    if record is None or not record.enabled or record.missing_grants or record.damage:
        return None
    return identity_of(record)
