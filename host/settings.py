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
from collections.abc import Callable, Mapping, Sequence
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
MAX_EVENT_BODY: Final = 3 * 2**20
"""What an event may have as JSON at most: as MessagePack it may take more than twice as much, and a frame has 8 MiB."""


MOST_PROCESSES: Final = 16
"""Processes for HTTP that may be asked for, and `USUAL_PROCESSES`, how many there are at most unasked."""
USUAL_PROCESSES: Final = 3


class SettingsError(BusbarError):
    """The settings cannot be used; the sentence names the option and how to write it."""

    code: ClassVar[str] = "settings_invalid"
    kind: ClassVar[ErrorKind] = ErrorKind.INVALID


DAY: Final = 86400.0


def _days(value: Any) -> Any:
    match = re.fullmatch(r"(\d+)\s*d", value) if isinstance(value, str) else None
    return float(match[1]) * DAY if match else value


SHORTEST: Final = 0.001
"""A loop that waits for less does nothing but wait."""
LONGEST: Final = 3660 * DAY
"""Ten years: what is meant to be for ever is as good as that, and instants so far off can still be written down."""
MOST_A_SECOND: Final = 1_000_000.0
"""More of anything than a host does in a second."""

# Every number has both ends: one that is not finite, or beyond what a part can take, is refused here and nowhere else.
Duration = Annotated[Seconds, BeforeValidator(_days), Field(ge=SHORTEST, le=LONGEST)]
Rate = Annotated[float, Field(gt=0, le=MOST_A_SECOND)]
Share = Annotated[float, Field(gt=0, le=1)]


def _listed(value: Any) -> Any:
    """A list, which the environment has as JSON."""
    return json.loads(value) if isinstance(value, str) else value


def _unless_auto(value: Any) -> Any:
    """A value, or None for "auto": what suits the machine."""
    return None if value == "auto" else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Processes = Annotated[int, Field(ge=0, le=MOST_PROCESSES)]


class Server(_Section):
    """`[server]`: where the API listens, what it takes, and how long it waits for clients."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8700
    event_body: Annotated[Bytes, Field(ge=64 * 1024, le=MAX_EVENT_BODY)] = 2**20
    wheel: Annotated[Bytes, Field(ge=2**20, le=4 * 2**30)] = 64 * 2**20
    drain: Duration = 30.0
    connections: Annotated[int, Field(ge=8, le=65_536)] = 1000
    connections_per_address: Annotated[int, Field(ge=4, le=65_536)] = 256
    head_within: Duration = 10.0
    body_within: Duration = 30.0
    answer_within: Duration = 30.0
    idle_for: Duration = 75.0
    processes: Annotated[Processes | None, BeforeValidator(_unless_auto)] = None

    def http_processes(self, processors: int) -> int:
        """How many processes for HTTP there are, where the host may use so many processors.

        Where the settings do not say: none on one or two, which the host, its workers and its disk use up; of those
        beyond, every second one, and few, for what the host itself does for each event bounds what they are of use for.
        """
        if self.processes is not None:
            return self.processes
        return min(max(0, processors - 1) // 2, USUAL_PROCESSES)


class Storage(_Section):
    """`[storage]`: where everything is kept."""

    directory: Path = Path("var")


class Log(_Section):
    """`[log]`: what is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Events(_Section):
    """`[events]`: how long events are kept, how fast they may come, and how many dead letters are kept."""

    keep_for: Duration = 7 * DAY
    keep_bytes: Annotated[Bytes, Field(ge=2**20, le=64 * 2**40)] = 2 * 2**30
    plugin_share: Share = 0.25
    rate: Annotated[float, Field(ge=0, le=MOST_A_SECOND)] = 0.0
    dead_letters: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    dead_letter_bytes: Annotated[Bytes, Field(ge=2**20, le=64 * 2**40)] = 128 * 2**20


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


def _nameserver(value: str) -> str:
    """An address, with a port where it is not 53."""
    address, port = value, "53"
    if found := re.fullmatch(r"\[([^]]*)\](?::([0-9]{1,5}))?|([0-9.]+):([0-9]{1,5})", value):
        address, port = found[1] or found[3], found[2] or found[4] or "53"
    try:
        ipaddress.ip_address(address)
    except ValueError:
        port = "0"
    if not 0 < int(port) < 2**16 or "%" in address:
        raise ValueError("write the address of a name server: '192.0.2.1', '192.0.2.1:5353' or '[2001:db8::1]:5353'")
    return value


class SandboxSection(_Section):
    """`[sandbox]`: what workers are confined to."""

    mode: Literal["require", "prefer", "off"] = "prefer"
    first_user: Annotated[int, Field(ge=1000, le=2**31 - 2**27)] = 1_879_048_192
    plugins_as_root: bool = False
    data: Annotated[Bytes, Field(ge=2**20, le=64 * 2**40)] = 256 * 2**20
    open_files: Annotated[int, Field(ge=64, le=65536)] = 256
    threads: Annotated[int, Field(ge=16, le=4096)] = 64
    nameservers: Annotated[
        tuple[Annotated[str, AfterValidator(_nameserver)], ...], BeforeValidator(_listed), Field(max_length=8)
    ] = ()


class LimitsSection(_Section):
    """`[limits]`: how much a plugin may ask of the host in a second, and how long it may go without reading."""

    requests: Rate = 1000.0
    emits: Rate = 500.0
    writes: Rate = 500.0
    emit_bytes: Annotated[Bytes, Field(ge=64 * 1024, le=2**40)] = 8 * 2**20
    write_bytes: Annotated[Bytes, Field(ge=64 * 1024, le=2**40)] = 8 * 2**20
    log_lines: Rate = 500.0
    messages: Rate = 2000.0
    unread: Duration = 5.0


class BreakerSection(_Section):
    """`[breaker]`: when a plugin's breaker opens and closes."""

    consecutive_failures: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    window: Duration = 10.0
    minimum_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    failure_rate: Share = 0.5
    slow_call: Duration = 5.0
    slow_call_rate: Share = 1.0
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
    probation: Duration = 300.0
    wheel_directories: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = ()
    dependency_origins: Annotated[tuple[WebAddress, ...], BeforeValidator(_listed)] = ()
    dependency_size: Annotated[Bytes, Field(ge=2**20, le=64 * 2**30)] = 256 * 2**20
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
    advisories_max_age: Duration = 7 * DAY
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
    said = _range(where) if item["type"] in _OUT_OF_RANGE else item["msg"].removeprefix("Value error, ")
    return f"{source}: {'.'.join(where)}: {said}"


def _known(parents: Sequence[str]) -> list[str]:
    section = _section(parents)
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def _section(parents: Sequence[str]) -> Any:
    section: Any = Settings
    for name in parents:
        if not name.isdigit():  # a place in an array of tables
            annotation = section.model_fields[name].annotation
            section = next(iter(get_args(annotation)), annotation)
    return section


_OUT_OF_RANGE: Final = frozenset(
    {"greater_than", "greater_than_equal", "less_than_equal", "finite_number", "int_parsing_size"}
)


def _range(where: tuple[str, ...]) -> str:
    """How a number is written that the option takes: from where to where."""
    *parents, option = where
    field = _section(parents).model_fields[option]
    if field.annotation == Processes | None:
        return f"write a whole number from 0 to {MOST_PROCESSES}, or 'auto'"
    bounds = {name: getattr(one, name) for one in field.metadata for name in ("gt", "ge", "le") if hasattr(one, name)}
    written: Callable[[Any], str] = "{:.9g}".format
    kind = "a number"
    if field.annotation is int:
        written, kind = str, "a whole number"
    if any(isinstance(one, BeforeValidator) for one in field.metadata):
        written, kind = (_as_size, "a size") if field.annotation is int else (_as_time, "a time")
    begin = f"from {written(bounds['ge'])}" if "ge" in bounds else f"above {written(bounds['gt'])} and up"
    return f"write {kind} {begin} to {written(bounds['le'])}"


def _as_time(seconds: Any) -> str:
    return f"{seconds / DAY:g}d" if seconds >= DAY else f"{seconds * 1000:g}ms"


def _as_size(size: Any) -> str:
    steps = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    return next(f"{size // unit}{name}" for unit, name in steps if size >= unit)


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
