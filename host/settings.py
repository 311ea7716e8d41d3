"""Settings: one TOML file, overridden by `BUSBAR_SECTION__OPTION`, parsed once into one frozen value.

Every option is in `config/busbar.toml` with its default and why. An unknown key is an error that names its
line and the nearest known key.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from host.errors import BusbarError, ErrorKind
from plugin_sdk.manifest import Bytes, Seconds

PREFIX: Final = "BUSBAR_"
CLIENT_NAMES: Final = frozenset({"BUSBAR_URL", "BUSBAR_TOKEN", "BUSBAR_SIGNING_KEY", "BUSBAR_KEY_PASSPHRASE"})
"""Variables of the command line that are no settings of the daemon."""


class SettingsError(BusbarError):
    """The settings cannot be used; the sentence names the option and how to write it."""

    code: ClassVar[str] = "settings_invalid"
    kind: ClassVar[ErrorKind] = ErrorKind.INVALID


def _days(value: Any) -> Any:
    match = re.fullmatch(r"(\d+)\s*d", value) if isinstance(value, str) else None
    return int(match[1]) * 86400.0 if match else value


Duration = Annotated[Seconds, BeforeValidator(_days), Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    """`[server]`: where the API listens, and what it takes."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8700
    event_body: Annotated[Bytes, Field(ge=64 * 1024)] = 2**20
    wheel: Annotated[Bytes, Field(ge=2**20)] = 64 * 2**20
    drain: Duration = 30.0


class Storage(_Section):
    """`[storage]`: where everything is kept."""

    directory: Path = Path("var")


class Log(_Section):
    """`[log]`: what is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Events(_Section):
    """`[events]`: how long events are kept, how fast they may come, and how many dead letters are kept."""

    keep_for: Duration = 7 * 86400.0
    keep_bytes: Annotated[Bytes, Field(ge=2**20)] = 2 * 2**30
    plugin_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    rate: Annotated[float, Field(ge=0)] = 0.0
    dead_letters: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    dead_letter_bytes: Annotated[Bytes, Field(ge=2**20)] = 128 * 2**20


class RuntimeSection(_Section):
    """`[runtime]`: how plugins are supervised."""

    heartbeat: Duration = 0.5
    silence: Duration = 2.0
    start: Duration = 60.0
    stop_hook: Duration = 10.0
    term: Duration = 5.0
    first_restart: Duration = 1.0
    longest_restart: Duration = 60.0
    healthy_after: Duration = 10.0
    restarts: Annotated[int, Field(ge=1, le=1000)] = 5
    restart_window: Duration = 600.0
    overdue: Duration = 5.0


class SandboxSection(_Section):
    """`[sandbox]`: what workers are confined to."""

    mode: Literal["require", "prefer", "off"] = "prefer"
    first_user: Annotated[int, Field(ge=1000, le=2**31 - 2**27)] = 1_879_048_192
    data: Annotated[Bytes, Field(ge=2**20)] = 256 * 2**20
    open_files: Annotated[int, Field(ge=64, le=65536)] = 256
    threads: Annotated[int, Field(ge=16, le=4096)] = 64


class LimitsSection(_Section):
    """`[limits]`: how much a plugin may ask of the host in a second, and how long it may go without reading."""

    requests: Annotated[float, Field(gt=0)] = 1000.0
    emits: Annotated[float, Field(gt=0)] = 500.0
    writes: Annotated[float, Field(gt=0)] = 500.0
    emit_bytes: Annotated[Bytes, Field(ge=64 * 1024)] = 8 * 2**20
    write_bytes: Annotated[Bytes, Field(ge=64 * 1024)] = 8 * 2**20
    log_lines: Annotated[float, Field(gt=0)] = 500.0
    messages: Annotated[float, Field(gt=0)] = 2000.0
    unread: Duration = 5.0


class BreakerSection(_Section):
    """`[breaker]`: when a plugin's breaker opens and closes."""

    consecutive_failures: Annotated[int, Field(ge=1)] = 5
    window: Duration = 10.0
    minimum_calls: Annotated[int, Field(ge=1)] = 10
    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    slow_call: Duration = 5.0
    slow_call_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    open_for: Duration = 60.0
    longest_open: Duration = 600.0
    probes: Annotated[int, Field(ge=1, le=100)] = 3


_PLAIN: Final = re.compile(r"[!-~]+")


def _web_address(value: str) -> str:
    """An http(s) address with nothing in it that would be logged and must not be; it ends in a slash."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or not _PLAIN.fullmatch(value):
        raise ValueError("write an address such as https://plugins.example.org/index/")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("an address has no user, password, query or fragment; name a file with the token in 'token'")
    return value if value.endswith("/") else value + "/"


def _template(value: str) -> str:
    if value and ("{filename}" in value) + ("{url}" in value) != 1:
        raise ValueError("write an address with {filename} or {url} in it")
    return value


def _listed(value: Any) -> Any:
    """A list, which the environment has as JSON."""
    return json.loads(value) if isinstance(value, str) else value


WebAddress = Annotated[str, AfterValidator(_web_address)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=64)]


class IndexSection(_Section):
    """One of `[[supply.indexes]]`: a package index that plugins are installed from by name."""

    name: Name
    url: WebAddress
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    plugins: Annotated[tuple[Name, ...], Field(max_length=256)] = ()
    file_origins: Annotated[tuple[WebAddress, ...], Field(max_length=16)] = ()
    attestations: Annotated[str, AfterValidator(_template)] = ""
    token: Path | None = None

    @model_validator(mode="after")
    def _token_is_kept(self) -> Self:
        address = urlsplit(self.url)
        if self.token is not None and address.scheme == "http" and not _loopback(address.hostname or ""):
            raise ValueError(f"the token of {self.name} would travel in clear: use an address with https")
        return self


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Supply(_Section):
    """`[supply]`: what is trusted, where plugins come from, and what is installed without anyone asking over HTTP."""

    publishers_directory: Path | None = None
    drop_in_directory: Path | None = None
    probation: Annotated[Duration, Field(gt=0)] = 300.0
    wheel_directories: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = ()
    dependency_origins: Annotated[tuple[WebAddress, ...], BeforeValidator(_listed)] = ()
    dependency_size: Annotated[Bytes, Field(ge=2**20)] = 256 * 2**20
    dependency_timeout: Duration = 300.0
    indexes: Annotated[tuple[IndexSection, ...], BeforeValidator(_listed), Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _one_of_each_name(self) -> Self:
        names = [index.name for index in self.indexes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two indexes are named '{twice[0]}': a plugin is bound to its index by name")
        return self


class Scan(_Section):
    """`[scan]`: what is looked for in a release before it runs, and what refuses it."""

    refuse: Literal["high", "medium", "low", "never"] = "high"
    bandit: Literal["auto", "require", "off"] = "auto"
    bandit_dependencies: bool = False
    advisories: str = ""
    advisories_max_age: Duration = 7 * 86400.0
    advisories_required: bool = False
    timeout: Duration = 120.0


class Auth(_Section):
    """`[auth]`: who may see what without a token."""

    public_metrics: bool = False


class Settings(_Section):
    """All settings of a daemon."""

    server: Server = Server()
    storage: Storage = Storage()
    log: Log = Log()
    events: Events = Events()
    runtime: RuntimeSection = RuntimeSection()
    sandbox: SandboxSection = SandboxSection()
    limits: LimitsSection = LimitsSection()
    breaker: BreakerSection = BreakerSection()
    supply: Supply = Supply()
    scan: Scan = Scan()
    auth: Auth = Auth()

    @classmethod
    def load(cls, path: Path | None, environment: Mapping[str, str]) -> Settings:
        """Read the settings file, if one is named, and what the environment overrides.

        Raises:
            SettingsError: the file cannot be read, or an option is unknown or wrongly written.
        """
        text = ""
        found: dict[str, Any] = {}
        if path is not None:
            try:
                text = path.read_text(encoding="utf-8")
                found = tomllib.loads(text)
            except OSError as error:
                raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
            except (ValueError, RecursionError) as error:  # also of tomllib: a number that is too long to read
                raise SettingsError(f"{path} is no TOML: {error}") from None
        overridden = _override(found, environment)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            problems = [_problem(item, path, text, overridden) for item in error.errors()]
            raise SettingsError("; ".join(problems), errors=problems) from None


def _override(found: dict[str, Any], environment: Mapping[str, str]) -> set[tuple[str, ...]]:
    """Put `BUSBAR_SECTION__OPTION` into `found`; which options came from there."""
    overridden: set[tuple[str, ...]] = set()
    for name, value in environment.items():
        if not name.startswith(PREFIX) or name in CLIENT_NAMES:
            continue
        section, double, option = name.removeprefix(PREFIX).lower().partition("__")
        if not double:
            raise SettingsError(f"{name} is no setting: write BUSBAR_SECTION__OPTION, such as BUSBAR_SERVER__PORT")
        table = found.setdefault(section, {})
        if isinstance(table, dict):
            table[option] = value
            overridden.add((section, option))
    return overridden


def _problem(item: Any, path: Path | None, text: str, overridden: set[tuple[str, ...]]) -> str:
    where = tuple(str(part) for part in item["loc"])
    named = PREFIX + "__".join(where[:2]).upper()
    source = f"{path}, line {_line(text, where)}"
    if where[:2] in overridden:
        source = named
    elif len(where) == 1 and (variables := [name for name in overridden if name[0] == where[0]]):
        source = PREFIX + "__".join(variables[0]).upper()
    if item["type"] == "extra_forbidden":
        *parents, key = where
        known = _known(parents)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(sorted(known))
        return f"{source}: unknown option '{'.'.join(where)}': {hint}"
    return f"{source}: {'.'.join(where)}: {item['msg'].removeprefix('Value error, ')}"


def _known(parents: list[str]) -> list[str]:
    section: Any = Settings
    for name in parents:
        if not name.isdigit():  # a place in an array of tables
            annotation = section.model_fields[name].annotation
            section = next(iter(get_args(annotation)), annotation)
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def _line(text: str, where: tuple[str, ...]) -> int:
    """The line on which an option stands, however it is written; the section's where the option is not found."""
    if len(where) > 2 and where[2].isdigit():  # noqa: PLR2004 - section, array, place
        return _line_in_array(text, where) or _line(text, where[:2])
    section, found = "", 0
    key = rf"[\"']?{re.escape(where[-1])}[\"']?"
    table = rf"[\"']?{re.escape(where[0])}[\"']?"
    own, dotted = rf"\s*{key}\s*=", rf"\s*{table}\s*(\.\s*{key}\s*=|=\s*{{.*\b{key}\s*=)"
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*[\"']?([^]\"']*)", line)
        if header:
            section = header[1].strip()
            if section == where[0]:
                found = number
        elif re.match(own if section or len(where) == 1 else dotted, line) and section in {"", where[0]}:
            return number
        elif not section and re.match(rf"\s*{table}\s*[.=]", line):
            found = number
    return found


def _line_in_array(text: str, where: tuple[str, ...]) -> int:
    """As `_line`, in one of an array of tables; 0 where the array is written in another way."""
    section, array, place, *option = where
    header = re.compile(rf"\s*\[\[\s*{re.escape(section)}\s*\.\s*{re.escape(array)}\s*]]")
    count, found = -1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if found and line.lstrip().startswith("["):
            break
        if header.match(line):
            count += 1
            found = number if count == int(place) else 0
        elif found and option and re.match(rf"\s*[\"']?{re.escape(option[0])}[\"']?\s*=", line):
            return number
    return found
