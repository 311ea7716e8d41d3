"""`plugin.toml`: who a plugin is and what it asks to be allowed, parsed strictly into frozen models."""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import Annotated, Any, Final, Literal

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
)

from plugin_sdk.description import TYPE_GLOB, Description, type_pattern
from plugin_sdk.errors import ManifestError
from plugin_sdk.hookspecs import API

PLUGIN_ID: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_ID: Final = 64
MAX_MANIFEST_BYTES: Final = 64 * 1024
MAX_REQUIREMENT: Final = 500
_UNITS: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _plugin_id(value: str) -> str:
    if not PLUGIN_ID.fullmatch(value) or len(value) > MAX_ID:
        raise ValueError(
            "a plugin id has lower-case letters and digits in words joined by '-', a letter first, "
            f"and at most {MAX_ID} characters"
        )
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)", value)
        if not match:
            raise ValueError("write a size as a whole number and B, KiB, MiB or GiB: '128MiB'")
        return int(match[1]) * _UNITS[match[2]]
    return value


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", value)
        if not match:
            raise ValueError("write a time as a number and ms, s, m or h: '10s'")
        return float(match[1]) * _SECONDS[match[2]]
    return value


def _glob(value: str) -> str:
    if not TYPE_GLOB.fullmatch(value):
        raise ValueError(f"'{value}' is no event type pattern; write dotted words with *: 'milestone.*'")
    return value


def _network(value: str) -> str:
    if value == "*:*":
        return value
    if not re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]|\*):\d{1,5}", value) or not _port(value):
        raise ValueError(f"'{value}' is no network target; write host:port, such as 'api.example.com:443'")
    return value


def _port(value: str) -> bool:
    return 0 < int(value.rpartition(":")[2]) < 2**16


def _shown(value: str) -> str:
    if not value.isprintable():
        raise ValueError(
            f"{ascii(value)[:80]} holds characters that cannot be shown: people read it on terminals and pages, so "
            "write one line without control characters"
        )
    return value


def _requirement(value: str) -> str:
    if len(value) > MAX_REQUIREMENT:
        raise ValueError(f"'{value[:80]}…' is longer than {MAX_REQUIREMENT} characters")
    try:
        found = Requirement(value)
    except (InvalidRequirement, RecursionError) as error:
        raise ValueError(f"'{value[:200]}' is no requirement (PEP 508): {error}") from None
    _plugin_id(found.name)
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", value):
        raise ValueError(f"'{value}' is no name: write lower-case letters, digits, _ and -, a letter first")
    return value


def _service(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]*\.([a-z][a-z0-9_]*|\*)", value):
        raise ValueError(f"'{value}' is no service; write plugin.method, such as 'email.send'")
    return value


PluginId = Annotated[str, AfterValidator(_plugin_id)]
Bytes = Annotated[int, Field(strict=True), BeforeValidator(_size)]
Seconds = Annotated[float, Field(strict=True), BeforeValidator(_seconds)]
Glob = Annotated[str, AfterValidator(_glob)]
Name = Annotated[str, AfterValidator(_name)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginPart(_Part):
    """`[plugin]`: who it is. The version comes from the wheel."""

    id: PluginId
    title: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_shown)]
    api: StrictInt = API
    description: Annotated[str, Field(max_length=2000), AfterValidator(_shown)] = ""
    requires: tuple[Annotated[str, AfterValidator(_requirement)], ...] = ()


class Permissions(_Part):
    """`[permissions]`: what the plugin asks for; as a grant, what an administrator allows."""

    subscribe: tuple[Glob, ...] = ()
    publish: tuple[Glob, ...] = ()
    call: tuple[Annotated[str, AfterValidator(_service)], ...] = ()
    network: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    secrets: tuple[Name, ...] = ()
    webhooks: tuple[Name, ...] = ()
    routes: StrictBool = False

    def together(self, other: Permissions) -> Permissions:
        """What either of the two allows."""
        kinds = ("subscribe", "publish", "call", "network", "secrets", "webhooks")
        lists = {kind: tuple(dict.fromkeys((*getattr(self, kind), *getattr(other, kind)))) for kind in kinds}
        return Permissions.model_validate({**lists, "routes": self.routes or other.routes})

    def beyond(self, granted: Permissions) -> tuple[str, ...]:
        """What these permissions ask for that `granted` does not hold, as `kind: value` in reading order."""
        missing = [
            f"{kind}: {value}"
            for kind in ("subscribe", "publish", "call", "network", "secrets", "webhooks")
            for value in getattr(self, kind)
            if value not in getattr(granted, kind)
        ]
        if self.routes and not granted.routes:
            missing.append("routes: true")
        return tuple(missing)


class RuntimePart(_Part):
    """`[runtime]`: where the plugin runs and how much of the machine it may use."""

    isolation: Literal["process", "inline"] = "process"
    memory: Annotated[Bytes, Field(ge=32 * 2**20, le=64 * 2**30)] = 256 * 2**20
    concurrency: Annotated[StrictInt, Field(ge=1, le=1024)] = 8
    timeout: Annotated[Seconds, Field(gt=0, le=3600)] = 10.0


class Manifest(_Part):
    """The whole of `plugin.toml`."""

    plugin: PluginPart
    permissions: Permissions = Permissions()
    runtime: RuntimePart = RuntimePart()

    @classmethod
    def parse(cls, text: bytes | str) -> Manifest:
        """Parse and check `plugin.toml`.

        Raises:
            ManifestError: no TOML, an unknown key (the nearest known one is named), a bad value, or a
                contract version that this SDK does not speak; `problems` has one sentence for each.
        """
        raw = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"plugin.toml has at most {MAX_MANIFEST_BYTES} bytes, not {len(raw)}")
        try:
            found = tomllib.loads(raw.decode())
        except (ValueError, RecursionError) as error:  # also of tomllib: a number that is too long to read
            raise ManifestError(f"plugin.toml is no TOML in UTF-8: {error}") from None
        try:
            manifest = cls.model_validate(found)
        except ValidationError as error:
            problems = tuple(_problem(item) for item in error.errors())
            raise ManifestError("plugin.toml is refused: " + "; ".join(problems), problems) from None
        if manifest.plugin.api != API:
            raise ManifestError(
                f"plugin.toml is written for contract {manifest.plugin.api}, this host speaks {API}: "
                "build the plugin against a plugin_sdk of that contract"
            )
        return manifest

    def check(self, description: Description) -> tuple[str, ...]:
        """What the code describes beyond this manifest, a sentence each; empty where it keeps within it."""
        may = self.permissions
        problems = [
            f"subscription '{subscription.name}' takes '{glob}', which permissions.subscribe does not cover"
            for subscription in description.subscriptions
            for glob in subscription.types
            if not covered(glob, may.subscribe)
        ]
        problems += [
            f"webhook '{webhook.name}' is not in permissions.webhooks"
            for webhook in description.webhooks
            if webhook.name not in may.webhooks
        ]
        problems += [
            f"webhook '{webhook.name}' needs the secret '{secret}', which is not in permissions.secrets"
            for webhook in description.webhooks
            for secret in webhook.secrets
            if secret not in may.secrets
        ]
        if description.routes and not may.routes:
            problems.append("the code serves HTTP routes, but permissions.routes is not true")
        return tuple(problems)


def covered(wanted: str, granted: tuple[str, ...]) -> bool:
    """Whether one of the `granted` type patterns covers all that the pattern `wanted` can match.

    `*` stands for any run of characters, so `wanted` is covered where a granted pattern matches it when
    its own `*` are taken as characters that only a `*` of the granted pattern can stand for.
    """
    # A star in `wanted` is matched by `.*` only: a granted pattern without a star holds no star.
    return any(re.fullmatch(type_pattern(pattern), wanted) for pattern in granted)


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        known = _known_keys(parents)
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "known keys: " + ", ".join(sorted(known))
        return f"unknown key '{where}': {hint}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def _known_keys(parents: list[Any]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "plugin": PluginPart,
        "permissions": Permissions,
        "runtime": RuntimePart,
    }
    return list(models[str(parents[0])].model_fields if parents else Manifest.model_fields)
