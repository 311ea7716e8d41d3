"""A real installation with a real store, trust store, registry, database and audit trail, and a picture of it all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from archives import Entry, archive
from supply_wheels import NAME, NOW, PROVIDED, Acme

from host.administration.installation import Installation, InstallOptions
from host.errors import BusbarError, printable, shortened
from host.lifecycle.applied import wanted_of
from host.lifecycle.keeper_parts import KeeperParts
from host.lifecycle.purges import Purges
from host.lifecycle.reconciler import Reconciler
from host.lifecycle.release_gate import ReleaseGate
from host.observe.audit import MAX_TEXT, Audit
from host.port.key_values import KeyValues
from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus
from host.routing.bus import Bus
from host.routing.sqlite_log import SQLiteLog
from host.runtime.examiner import WorkerExaminer
from host.runtime.fork_server import ForkServer
from host.runtime.process import WorkerRuntime
from host.runtime.runtime import Launch
from host.runtime.sandbox import Sandbox, SandboxPolicy
from host.runtime.workshop import WorkerLimits, Workshop
from host.storage.database import Database
from host.storage.key_value_store import KeyValueStore
from host.storage.keyring import Keyring
from host.supply.dependencies.fetch import DependencySources
from host.supply.dependencies.wheel import Distribution
from host.supply.index.index_client import Indexes
from host.supply.index.index_source import IndexSource
from host.supply.installer import Installer, Override, ReceivedRelease, Release
from host.supply.release_store import ReleaseStore
from host.supply.scan.report import ScanReport
from host.supply.scan.scanner import Scanner, ScanPolicy
from host.supply.trust.store import TrustStore
from host.supply.wheel.record import digest_of
from plugin_sdk.calls import ServiceCall
from plugin_sdk.clock import Clock
from plugin_sdk.description import Description
from plugin_sdk.testing import FakeClock, MemoryHost

PLUGIN = "acme-demo"
MAX_WHEEL = 8 * 2**20
ACTOR = "alice"
CODE = "from plugin_sdk import Plugin, service\n\n\nclass Demo(Plugin):\n    pass\n"


@dataclass(frozen=True)
class Signed:
    """A release as a publisher hands it over."""

    wheel: bytes
    filename: str
    attestations: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.wheel).hexdigest()


def files_of(
    plugin: str = PLUGIN, version: str = "1.0.0", *, code: str = CODE, manifest: str = "", **extra: bytes
) -> dict[str, bytes]:
    """The files of a good wheel without its RECORD; `manifest` has what comes after `[plugin]`."""
    module = plugin.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    return {
        f"{module}/__init__.py": code.encode(),
        f"{module}/plugin.toml": f'[plugin]\nid = "{plugin}"\ntitle = "Demo"\n\n{manifest}'.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {plugin}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[busbar.plugins]\n{plugin} = {module}:Demo\n".encode(),
        **extra,
    }


def record_of(files: dict[str, bytes]) -> tuple[str, bytes]:
    """The name and content of the RECORD of a wheel's files."""
    info = next(path.partition("/")[0] for path in files if path.partition("/")[0].endswith(".dist-info"))
    rows = [f"{path},sha256={digest_of('sha256', content)},{len(content)}" for path, content in files.items()]
    return f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()


def sign(
    acme: Acme,
    files: dict[str, bytes] | None = None,
    *,
    plugin: str = PLUGIN,
    version: str = "1.0.0",
    sequence: int = 7,
    **statement: Any,
) -> Signed:
    """A good release of these files, signed."""
    files = files_of(plugin, version) if files is None else files
    name, record = record_of(files)
    wheel = archive([Entry(path, content) for path, content in {**files, name: record}.items()])
    filename = f"{plugin.replace('-', '_')}-{version}-py3-none-any.whl"
    said = {
        "filename": filename,
        "plugin": plugin,
        "version": version,
        "sequence": sequence,
        "record_sha256": hashlib.sha256(record).hexdigest(),
        **statement,
    }
    return Signed(wheel, filename, acme.sign(wheel, **said))


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Every path below `root` with what makes it what it is: its kind and mode, and its content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for base, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(base, name)
            status = path.lstat()
            content: object = ""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path.relative_to(root).as_posix()] = (oct(status.st_mode), status.st_uid, content)
    return found


def table(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Rows as parameters of a test, named by their first field."""
    return [pytest.param(*row, id=row[0]) for row in rows]


class ScannerOnce(Scanner):
    """Scans each wheel once in a process: nearly every rig installs the same few."""

    _reports: ClassVar[dict[tuple[str, ScanPolicy], ScanReport]] = {}

    async def scan(self, tree: Path, **of: Any) -> ScanReport:
        about = (of["sha256"], self.policy)
        if about not in self._reports:
            self._reports[about] = await super().scan(tree, **of)
        return self._reports[about]


class KeptPlugin:
    """A plugin that a keeper starts and stops, and that does nothing else."""

    isolation = "process"
    delivering = False

    def __init__(self, record: PluginRecord) -> None:
        self.record = record
        self.running = False
        self.applied = wanted_of(record)

    async def start(self) -> None:
        self.running = True

    async def stop(self, _grace: float) -> None:
        self.running = False

    def status(self) -> PluginStatus:
        return PluginStatus(PluginState.RUNNING, 0.0)


class SupplyRig:
    """An installation, and everything around it that an attack could reach.

    `described` has the releases whose code was looked at, by `describe` where there is one. `acme` is trusted for
    `acme`.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        acme: Acme,
        clock: Clock,
        describe: Callable[[Release], Awaitable[Description]] | None,
        *,
        log: SQLiteLog,
        key_values: KeyValueStore,
        sources: DependencySources,
        indexes: Indexes,
        scan: ScanPolicy,
    ) -> None:
        self.folder = folder
        self.database = database
        self.acme = acme
        self.clock = clock
        self.described: list[Release] = []
        self.store = ReleaseStore(folder / "supply")
        self.trust = TrustStore(database, Keyring(b"k" * 32), clock)
        self.registry = Registry(database, Keyring(b"k" * 32), clock)
        self.describe = describe
        self.installer = Installer(
            store=self.store,
            trust=self.trust,
            describe=self._described,
            distributions=[Distribution(name, version, (), frozenset()) for name, version in PROVIDED.items()],
            sources=sources,
            scanner=ScannerOnce(scan, clock),
            clock=clock,
            max_wheel=MAX_WHEEL,
        )
        self.audit = Audit(database, clock)
        self.gate = ReleaseGate(self.registry, self.installer, self.audit, Bus(log, max_body=2**20))
        self.reconciler = Reconciler(
            KeeperParts(
                registry=self.registry,
                verify=self.gate.verify,
                # a stand-in with as much of a hosted plugin as its keeper asks for here
                host=lambda record, _release, _changed: KeptPlugin(record),  # type: ignore[arg-type,return-value]  # above
                forget=self.installer.forget,
                clear=Purges(database, KeyValues(key_values), folder / "data").clear,
                grace=0,
                probation=0,
                clock=clock,
            )
        )
        self.trust.listen(self.reconciler.recheck)
        self.installation = Installation(
            registry=self.registry,
            reconciler=self.reconciler,
            installer=self.installer,
            indexes=indexes,
            spool=self.store.staging,
            max_wheel=MAX_WHEEL,
            audit=self.audit,
            wait_until_upgraded=self.reconciler.caught_up,
        )

    async def _described(self, release: Release) -> Description:
        self.described.append(release)
        return Description() if self.describe is None else await self.describe(release)

    async def take(
        self,
        wheel: bytes | AsyncIterator[bytes],
        attestations: bytes,
        filename: str = NAME,
        *,
        commit: Callable[[Release, Description], Awaitable[None]] | None = None,
        only: str | None = None,
        overrides: frozenset[Override] = frozenset(),
    ) -> Release:
        """Install as the administration does: with the registry's history, committed into the registry."""

        async def into_registry(release: Release, description: Description) -> None:
            await self.registry.install(release, description, enabled=True)

        stream = _chunks(wheel) if isinstance(wheel, bytes) else wheel
        received = ReceivedRelease(stream, filename, attestations)
        return await self.installer.take(
            received, history=self.registry.history, commit=commit or into_registry, only=only, overrides=overrides
        )

    async def install(self, signed: Signed) -> Release:
        """Install a release that is good."""
        return await self.take(signed.wheel, signed.attestations, signed.filename)

    async def picture(self) -> dict[str, object]:
        """Every file of the store and every row of the database, but for the audit trail."""
        tables = await self.database.read(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('audit', 'sqlite_sequence') "
            "ORDER BY name"
        )
        rows = {
            f"table {row['name']}": sorted(
                repr(tuple(found)) for found in await self.database.read(f"SELECT * FROM {row['name']}")
            )
            for row in tables
        }
        return {**await asyncio.to_thread(snapshot, self.folder / "supply"), **rows}

    async def refusal(
        self,
        wheel: bytes | AsyncIterator[bytes],
        attestations: bytes,
        filename: str = NAME,
        *,
        metadata_sha256: str | None = None,
        looked: int = 0,
        **options: Any,
    ) -> BusbarError:
        """How an administrator's install of the release is refused; see `refused`."""
        stream = _chunks(wheel) if isinstance(wheel, bytes) else wheel
        received = ReceivedRelease(stream, filename, attestations, metadata_sha256)
        options = {"wait": False, **options}
        install = self.installation.install(received, InstallOptions(**options), actor=ACTOR)
        return await self.refused(install, filename, looked=looked)

    async def refusal_of(self, requirement: str, target: str, **options: Any) -> BusbarError:
        """How an install by requirement, from an index, is refused; `target` is what the audit trail names."""
        options = InstallOptions(wait=False, **options)
        return await self.refused(self.installation.install_required(requirement, options, actor=ACTOR), target)

    async def refused(self, install: Awaitable[PluginRecord], target: str, *, looked: int = 0) -> BusbarError:
        """How an install is refused.

        On disk and in the database everything is then as it was, the audit trail says who was refused what and why, and
        the code of no more than `looked` releases was looked at, in their throw-away workers.
        """
        before, seen = await self.picture(), len(self.described)
        _, entries = await self.audit.page(0, 1)
        with pytest.raises(BusbarError) as refused:
            await install
        assert await self.picture() == before
        assert len(self.described) == seen + looked
        (entry,), now = await self.audit.page(0, 1)
        assert now == entries + 1
        assert (entry.actor, entry.action, entry.target) == (
            ACTOR,
            "plugin.install",
            printable(shortened(target, MAX_TEXT)),
        )
        assert (entry.outcome, entry.detail["code"]) == ("refused", refused.value.word)
        return refused.value

    @asynccontextmanager
    async def running(self) -> AsyncIterator[KeptPlugin]:
        """The plugin that is installed, kept running by the reconciler."""
        self.reconciler.start()
        try:
            assert await self.reconciler.looked(30)
            yield self.reconciler.hosted(PLUGIN)  # type: ignore[misc]  # it is one of ours
        finally:
            await self.reconciler.stop()

    def folder_of(self, release: Release) -> Path:
        """Where a release is kept."""
        return self.store.releases / release.sha256


async def _chunks(wheel: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(wheel), 65536):
        yield wheel[at : at + 65536]


@asynccontextmanager
async def supply_rig(
    folder: Path,
    *,
    acme: Acme | None = None,
    clock: Clock | None = None,
    describe: Callable[[Release], Awaitable[Description]] | None = None,
    again: bool = False,
    sources: DependencySources | None = None,
    indexes: Iterable[IndexSource] = (),
    scan: ScanPolicy | None = None,
) -> AsyncIterator[SupplyRig]:
    """A rig in `folder` that trusts `acme`, in which `acme-demo` 0.9.0 (sequence 6) is installed.

    `again`: the folder has a rig's files already, and this is its next start.
    """
    clock = clock or FakeClock(NOW)
    database = await Database.open(folder / "busbar.db", clock=clock)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        key_values = await KeyValueStore.open(folder / "key-values.db", clock=clock)
        stack.push_async_callback(key_values.close)
        rig = SupplyRig(
            folder,
            database,
            acme or Acme(),
            clock,
            describe,
            log=await SQLiteLog.open(database, clock),
            key_values=key_values,
            sources=sources or DependencySources(),
            indexes=await stack.enter_async_context(Indexes(tuple(indexes))),
            scan=scan or ScanPolicy(bandit="off"),
        )
        await rig.registry.load()
        await rig.trust.load()
        rig.store.open(sha256 for record in rig.registry.all() for sha256 in record.releases)
        if not again:
            await rig.trust.add(rig.acme.publisher)
            await rig.install(sign(rig.acme, version="0.9.0", sequence=6))
            rig.described.clear()
        yield rig


class Workers:
    """Runs and examines releases in real workers."""

    def __init__(self, workshop: Workshop, data: Path) -> None:
        self._workshop = workshop
        self._data = data

    def launch(self, release: Release) -> Launch:
        """How the host would start a release."""
        return Launch(
            plugin=release.plugin,
            folder=release.folder,
            entry_point=release.entry_point,
            config={},
            secrets={},
            isolation="process",
            memory=256 * 2**20,
            concurrency=2,
            timeout=5.0,
            data_folder=self._data / release.plugin,
            dependencies=release.dependencies,
            cold_start=release.cold_start,
            digests=release.digests,
        )

    async def describe(self, release: Release) -> Description:
        """What a release's code does, from a throw-away worker."""
        return await WorkerExaminer(self._workshop, lambda _plugin: lambda *_: None).describe(self.launch(release))

    async def call(self, release: Release, method: str) -> Any:
        """Start a release, call one of its services, and stop it."""
        runtime = WorkerRuntime(self.launch(release), MemoryHost({}), self._workshop, lambda *_: None)
        await runtime.start()
        try:
            return await runtime.call(ServiceCall(method, {}))
        finally:
            await runtime.stop(1.0, 1.0)


@asynccontextmanager
async def workers(sdk_path: Path, data: Path) -> AsyncIterator[Workers]:
    """Real workers, each in its sandbox, that keep their data below `data`."""
    fork_server = ForkServer(sdk_path)
    try:
        workshop = Workshop(
            fork_server, Sandbox(SandboxPolicy(plugins_as_root=True), sdk_path), WorkerLimits(heartbeat=0.05)
        )
        yield Workers(workshop, data)
    finally:
        await fork_server.stop()


def writable(folder: Path) -> Iterator[Path]:
    """Lift the write protection of a release, as someone with the daemon's rights could; every path below it."""
    for base, folders, names in os.walk(folder):
        Path(base).chmod(0o755)
        yield from (Path(base, name) for name in (*folders, *names))
