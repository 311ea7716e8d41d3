"""A small host for one plugin that runs from its author's source: what `busbar plugin dev` starts.

It is made of the real parts (log, router, guard, scheduler, worker) over a temporary folder. Nothing is signed here,
because nothing here is anybody else's: it has no API, no trust store and no other plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from host.errors import BusbarError, ErrorKind
from host.kit import HostLife, Lent, event_path, hosted_parts, make_workshop
from host.lifecycle.hosted_plugin import HostedPlugin, Parts
from host.observe.audit import Audit
from host.observe.background_parts import BackgroundParts
from host.observe.logging import PluginLogs
from host.port.key_values import KeyValues
from host.registry.records import PluginRecord
from host.routing.bus import Bus
from host.routing.event_log import Outcome, Settlement, StoredEvent
from host.routing.settlements import Settlements, Settler
from host.routing.sqlite_log import SQLiteLog
from host.runtime.egress import EgressBroker
from host.runtime.errors import StartFailedError
from host.runtime.examiner import EXAMINED, WorkerExaminer
from host.runtime.runtime import Launch
from host.runtime.sandbox import AUTHORS_OWN
from host.runtime.supervisor import SupervisionLimits
from host.runtime.workshop import WorkerLimits
from host.storage.database import Database
from host.storage.key_value_store import KeyValueStore
from host.supply.installer import Release
from plugin_sdk.clock import SystemClock
from plugin_sdk.description import Description
from plugin_sdk.errors import HostError, InvalidEventError, ManifestError
from plugin_sdk.events import Event
from plugin_sdk.manifest import Manifest
from plugin_sdk.resilience import BreakerPolicy
from plugin_sdk.worker.wire import LogLine

GRACE_SECONDS: Final = 2.0
LOAD_SECONDS: Final = 60.0
UNLIMITED_SECONDS: Final = 7 * 86400.0
"""The time limit of a hook while somebody may be looking at it in a debugger."""
MAX_BODY: Final = 2**20
MAX_DEAD_LETTERS: Final = 1000
MAX_LETTER_BYTES: Final = 128 * 2**20

Tell = Callable[[str], None]


class SourceError(BusbarError):
    """The project cannot be run from its source; the sentence says what is missing where."""

    code = "plugin_source_invalid"
    kind = ErrorKind.INVALID


@dataclass(frozen=True, slots=True)
class Source:
    """A plugin's project as it lies there: the folder that is on its path, its entry point and its manifest."""

    folder: Path
    entry_point: str
    manifest: Manifest

    @classmethod
    def read(cls, project: Path) -> Self:
        """Read `pyproject.toml` and `plugin.toml`.

        Raises:
            SourceError: one is missing or malformed, or there is no entry point.
        """
        entry_point = _entry_point(project / "pyproject.toml")
        package = entry_point.partition(":")[0].partition(".")[0]
        for folder in (project, project / "src"):
            if (folder / package).is_dir():
                return cls(folder, entry_point, _manifest(folder / package / "plugin.toml"))
        raise SourceError(f"{project} has no package '{package}', neither here nor in src: the entry point names it")


@dataclass(slots=True)
class DevOptions:
    """How the plugin runs: in a worker or inline, with which config and secrets."""

    inline: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)


class DevHost:
    """Runs a plugin from its source, and tells what it does in plain lines. Make it with `open`."""

    def __init__(self, options: DevOptions, tell: Tell, parts: Parts, examiner: WorkerExaminer) -> None:
        self._options = options
        self._tell = tell
        self._parts = parts
        self._examiner = examiner
        self._hosted: HostedPlugin | None = None
        self._state = ""
        self._turned = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path, options: DevOptions, tell: Tell) -> AsyncIterator[Self]:
        """A host whose state is in `folder`; on leaving, the plugin and every part is stopped."""
        clock = SystemClock()
        async with contextlib.AsyncExitStack() as stack:
            life = HostLife(stack, BackgroundParts(clock), GRACE_SECONDS)
            database = await Database.open(folder / "busbar.db", clock=clock)
            stack.push_async_callback(database.close)
            key_values = await KeyValueStore.open(folder / "key-values.db", clock=clock)
            stack.push_async_callback(key_values.close)
            log = await SQLiteLog.open(database, clock)
            log.listen(lambda _after, events: _tell_emitted(events, tell))
            path = await event_path(life, log, database, clock, _ToldSettlements(log, tell))
            made_with = await make_workshop(
                life, folder, AUTHORS_OWN, limits=WorkerLimits(), egress=EgressBroker(), open_ways=False
            )
            logs = _ToldLogs(tell)
            lent = Lent(
                bus=Bus(log, max_body=MAX_BODY),
                key_values=KeyValues(key_values),
                audit=Audit(database, clock),
                logs=logs,
                data=folder / "data",
                services=None,  # a plugin is developed alone
                dependencies=None,
                resolver=None,
                breaker=BreakerPolicy(),
                supervision=SupervisionLimits(start=UNLIMITED_SECONDS if options.inline else LOAD_SECONDS),
                max_dead_letters=MAX_DEAD_LETTERS,
                max_letter_bytes=MAX_LETTER_BYTES,
            )
            parts = hosted_parts(path, made_with, lent, clock, inline=options.inline)
            host = cls(options, tell, parts, WorkerExaminer(made_with, logs.sink))
            stack.push_async_callback(host.unload)
            yield host

    async def load(self, project: Path) -> bool:
        """Load the plugin anew from its source; whether it runs. What keeps it from running is told."""
        await self.unload()
        try:
            source = Source.read(project)
            launch = self._launch(source)
            description = await self._examiner.describe(launch)
            problems = source.manifest.check(description)
            if problems:
                raise SourceError("plugin.toml does not allow what the code does: " + "; ".join(problems))
            await self._examiner.validate_config(launch, self._options.config)
        except StartFailedError as error:
            self._tell(f"not loaded: {error.message}\n{error.traceback}".rstrip())
            return False
        except (BusbarError, HostError) as error:
            self._tell(f"not loaded: {error.message if isinstance(error, BusbarError) else error}")
            return False
        hosted = self._hosted = HostedPlugin(
            self._record(source, description), _release(source, self._options), self._parts, self._changed
        )
        self._tell(_loaded(source, description))
        await hosted.start()
        async with asyncio.timeout(LOAD_SECONDS):
            while hosted.status().state.value == "starting":
                self._turned.clear()
                await self._turned.wait()
        return hosted.running

    async def unload(self) -> None:
        """Stop the plugin, if it runs."""
        hosted, self._hosted = self._hosted, None
        if hosted is not None:
            await hosted.stop(GRACE_SECONDS)

    async def publish(self, text: str | bytes) -> None:
        """Publish an event from a JSON object; what a CloudEvent needs and it lacks is filled in. A refusal is told."""
        try:
            found = msgspec.json.decode(text)
            if not isinstance(found, dict):
                raise SourceError('an event is a JSON object, such as {"type": "order.placed", "data": {}}')
            made = {
                "specversion": "1.0",
                "id": f"dev-{self._parts.rng.getrandbits(64):016x}",
                "source": "/dev",
                **found,
            }
            await self._parts.bus.publish(Event.from_json(msgspec.json.encode(made)))
        except msgspec.DecodeError as error:
            self._tell(f"not published: this is no JSON: {error}")
        except BusbarError as error:
            self._tell(f"not published: {error.message}")
        except InvalidEventError as error:
            self._tell(f"not published: {error}")

    # -- inside

    def _launch(self, source: Source) -> Launch:
        limits = source.manifest.runtime
        plugin = source.manifest.plugin.id
        return Launch(
            plugin=plugin,
            folder=source.folder,
            entry_point=source.entry_point,
            config={},
            secrets={},
            isolation="process",
            memory=limits.memory,
            concurrency=limits.concurrency,
            timeout=limits.timeout,
            data_folder=self._parts.data / EXAMINED / plugin,
        )

    def _record(self, source: Source, description: Description) -> PluginRecord:
        if self._options.inline:
            subscriptions = tuple(msgspec.structs.replace(one, timeout=None) for one in description.subscriptions)
            description = msgspec.structs.replace(description, subscriptions=subscriptions)
        now = self._parts.clock.now().timestamp()
        return PluginRecord(
            id=source.manifest.plugin.id,
            sha256="",
            version="dev",
            publisher="dev",
            sequence=0,
            title=source.manifest.plugin.title,
            description=description,
            requested=source.manifest.permissions,
            granted=source.manifest.permissions,
            config=self._options.config,
            secrets=self._options.secrets,
            enabled=True,
            generation=0,
            config_revision=0,
            breaker="disabled",  # an author who makes mistakes wants to see each
            policies={},
            requires=(),
            installed_at=now,
            changed_at=now,
        )

    def _changed(self) -> None:
        self._turned.set()
        if self._hosted is None:
            return
        status = self._hosted.status()
        line = (
            status.state.value
            if status.state.value in {"starting", "running"}
            else (f"{status.state.value}: {status.evidence or status.cause}")
        )
        if line == self._state:
            return
        self._state = line
        self._tell(line)
        stack = self._hosted.supervisor.last_stack
        if status.state.value in {"failed", "backing-off"} and stack:
            self._tell(stack.rstrip())


class _ToldSettlements(Settlements):
    """Settlements that tell each outcome."""

    def __init__(self, log: SQLiteLog, tell: Tell) -> None:
        super().__init__(log)
        self._tell = tell

    def add(self, settler: Settler, settlements: Sequence[Settlement]) -> None:
        """Tell how deliveries ended, with the author's tracebacks."""
        for settlement in settlements:
            name = settlement.subscription.partition("/")[2]
            line = (
                f"{settlement.outcome.value}: {settlement.stored.event.type} to {name}, "
                f"{settlement.duration * 1000:.1f} ms"
            )
            if settlement.outcome is not Outcome.DELIVERED:
                line += f": {settlement.error}"
            self._tell("\n".join(filter(None, (line, settlement.traceback.rstrip()))))
        super().add(settler, settlements)


class _ToldLogs(PluginLogs):
    """The plugin's log lines, told as they come."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def sink(self, plugin: str) -> Callable[[list[LogLine], int], None]:  # noqa: ARG002 - there is but one plugin
        """Where a runtime hands its lines."""

        def take(lines: list[LogLine], dropped: int) -> None:
            for line in lines:
                self._tell(f"log {line.level}: {line.message}")
            if dropped:
                self._tell(f"log: {dropped} lines were too many, and dropped")

        return take


def _tell_emitted(events: Any, tell: Tell) -> None:
    stored: StoredEvent
    for stored in events:
        event = stored.event
        if event.source.startswith("/plugins/"):
            data = "" if event.data is msgspec.UNSET else f" {msgspec.json.encode(event.data).decode()}"
            tell(f"emitted: {event.type}{data}")


def _release(source: Source, options: DevOptions) -> Release:
    manifest = source.manifest
    runtime = manifest.runtime.model_copy(
        update={"isolation": "inline", "timeout": UNLIMITED_SECONDS} if options.inline else {"isolation": "process"}
    )
    return Release(
        sha256="",
        plugin=manifest.plugin.id,
        version="dev",
        publisher="dev",
        sequence=0,
        filename="",
        manifest=manifest.model_copy(update={"runtime": runtime}),
        entry_point=source.entry_point,
        folder=source.folder,
    )


def _loaded(source: Source, description: Description) -> str:
    lines = [f"loaded {source.manifest.plugin.id} from {source.folder}"]
    lines += [f"  on {', '.join(one.types)}: {one.name}" for one in description.subscriptions]
    lines += [f"  {one.cron or one.at or f'every {one.every:g} s'}: {one.name}" for one in description.schedules]
    lines += [f"  service {one.name}" for one in description.services]
    return "\n".join(lines)


def _entry_point(path: Path) -> str:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["entry-points"]["busbar.plugins"]
        (entry_point,) = found.values()
        return str(entry_point)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}: name the folder of a plugin project") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, tomllib.TOMLDecodeError):
            raise SourceError(f"{path} is no TOML: {error}") from None
        raise SourceError(f'{path} must have one entry point in [project.entry-points."busbar.plugins"]') from None


def _manifest(path: Path) -> Manifest:
    try:
        return Manifest.parse(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}: it is the plugin's manifest") from None
    except ManifestError as error:
        raise SourceError(str(error)) from None
