"""The install transaction: receive, verify, read, resolve, stage, scan, describe, compare; then the caller commits.

A failure at any step leaves the host as it was. The release is renamed into the store before the registry
names it, so a crash between the two leaves a release that nobody names, which the next start removes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import structlog
from packaging.version import Version

from host.supply.cancellation import to_the_end
from host.supply.dependencies.dependencies import Dependencies, check_dependencies, take_dependencies
from host.supply.dependencies.fetch import DependencySources
from host.supply.dependencies.wheel import Distribution
from host.supply.errors import (
    PluginRefusedError,
    ReleaseConflictError,
    ReleaseRefusedError,
    ReleaseTooLargeError,
)
from host.supply.index.core_metadata import check_metadata
from host.supply.release_store import BILL, SCAN, WHEEL, ReleaseStore, StoredRelease
from host.supply.scan.scanner import Scanner
from host.supply.scan.staged_release import scan_staged
from host.supply.sealed_tree import not_read, on_disk, read_stored
from host.supply.trust.publishers import KeyState
from host.supply.trust.store import TrustStore
from host.supply.trust.verification import Purpose, VerifiedRelease, plugin_of, verify_release
from host.supply.wheel.reader import ReadWheel, read_wheel
from host.supply.wheel.structure import MAX_ARCHIVE
from plugin_sdk.clock import Clock
from plugin_sdk.description import Description
from plugin_sdk.manifest import Manifest
from plugin_sdk.worker.digests import hash_files, pack

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InstalledVersion:
    """What a plugin id has, or last had, on this host.

    `key_id` is the key that signed it, nothing where that was not recorded; `recorded_at`, in seconds since the epoch,
    is when this host took it as what the plugin is.
    """

    plugin: str
    version: str
    sha256: str
    publisher: str
    sequence: int
    key_id: str = ""
    recorded_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ReceivedRelease:
    """A release as it comes in: the wheel's bytes as they come, its file name and what was signed about it.

    `metadata_sha256` is what an index said beforehand of the wheel's METADATA.
    """

    wheel: AsyncIterator[bytes]
    filename: str
    attestations: bytes
    metadata_sha256: str | None = None


class Override(Enum):
    """Rules of a plugin's history that an administrator may set aside for one release; never a change of bytes."""

    DOWNGRADE = "downgrade"
    PUBLISHER = "publisher-change"


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release on disk.

    `folder` is its unpacked tree, `dependencies` are those of what it brings with it; `cold_start` says why its
    worker cannot be forked from one that has the SDK's own libraries already, or nothing. `digests` are what every file
    in these folders hashes to, as a worker takes them (`plugin_sdk.worker.digests`).
    """

    sha256: str
    plugin: str
    version: str
    publisher: str
    sequence: int
    filename: str
    manifest: Manifest
    entry_point: str
    folder: Path
    dependencies: tuple[Path, ...] = ()
    cold_start: str = ""
    warnings: tuple[str, ...] = ()
    key_id: str = ""
    digests: bytes = field(default=b"", repr=False)


class Installer:
    """Takes releases in, and verifies them again at every start.

    Args:
        store: Where releases are.
        trust: Whom to believe.
        describe: Asks a release what its code does, in a throw-away worker.
        distributions: What every worker has.
        sources: Where the wheels of dependencies come from.
        scanner: Looks at the code before it runs.
        clock: For validity.
        max_wheel: Bytes a wheel may have.
    """

    def __init__(
        self,
        *,
        store: ReleaseStore,
        trust: TrustStore,
        describe: Callable[[Release], Awaitable[Description]],
        distributions: Sequence[Distribution],
        sources: DependencySources,
        scanner: Scanner,
        clock: Clock,
        max_wheel: int,
    ) -> None:
        self._store = store
        self._trust = trust
        self._describe = describe
        self._distributions = tuple(distributions)
        self._provided = {one.name: one.version for one in distributions}
        self._sources = sources
        self._scanner = scanner
        self._clock = clock
        self._max_wheel = max_wheel
        self._busy: set[str] = set()

    async def take(
        self,
        received: ReceivedRelease,
        *,
        history: Callable[[str], Awaitable[InstalledVersion | None]],
        commit: Callable[[Release, Description], Awaitable[None]],
        only: str | None = None,
        overrides: frozenset[Override] = frozenset(),
    ) -> Release:
        """Take a release in; `commit` makes it the plugin's, and is called only when every check has passed.

        Args:
            received: The release.
            history: The release that a plugin id has or last had.
            commit: Called with the release in the store, and what its code does.
            only: The plugin that it must be a release of; None for any.
            overrides: Rules that are set aside.

        Raises:
            SupplyError: the first rule that is broken; nothing is left behind.
            ReleaseConflictError: another install of the same plugin is under way.
            StorageFailedError: the disk is full, or fails; nothing is left behind.
        """
        plugin, _ = plugin_of(received.filename)
        if only is not None and plugin != only:
            raise ReleaseConflictError("subject_mismatch", f"{received.filename} is of {plugin}, not of {only}")
        if plugin in self._busy:
            raise ReleaseConflictError("busy", f"another install of {plugin} is under way: wait for it")
        self._busy.add(plugin)
        try:
            with on_disk():
                staging = await asyncio.to_thread(self._store.new_staging)
            try:
                return await self._take(staging, received, history, commit, overrides)
            finally:
                await self._discard(staging)
        finally:
            self._busy.discard(plugin)

    async def verify_installed(self, sha256: str) -> Release:
        """Verify a stored release with today's trust: signature, wheel, and every file of its tree.

        Raises:
            ReleaseRefusedError: with the rule that is broken now.
            StorageFailedError: the machine refuses to read it; nothing is said of the release.
        """
        snapshot = await self._trust.snapshot()
        now = self._clock.now()

        def verify() -> Release:
            stored = self._store.find(sha256)
            wheel = self._store.wheel_of(stored)
            verified = verify_release(
                sha256=sha256,
                filename=stored.filename,
                attestations=self._store.attestations_of(stored),
                trust=snapshot,
                now=now,
                purpose=Purpose.START,
            )
            read = read_wheel(wheel, stored.filename, self._provided)
            self._store.check_tree(stored, read)
            _check_isolation(verified, read)
            found = check_dependencies(read, verified.statement.lock_sha256, stored, self._distributions)
            return _release(stored, verified, read, found)

        try:
            return await asyncio.to_thread(verify)
        except OSError as error:  # a file that goes while it is looked at, a disk that fails
            raise not_read("files", error) from None

    async def paper(self, sha256: str, name: str) -> bytes:
        """What is kept with a release: the report of its `SCAN`, or its `BILL` of materials.

        Raises:
            PaperNotFoundError: it is not.
        """
        return await asyncio.to_thread(self._store.paper, sha256, name)

    async def forget(self, sha256: str) -> None:
        """Remove a release that no plugin names any more."""
        await asyncio.to_thread(self._store.remove, sha256)

    # -- the steps

    async def _take(
        self,
        staging: Path,
        received: ReceivedRelease,
        history: Callable[[str], Awaitable[InstalledVersion | None]],
        commit: Callable[[Release, Description], Awaitable[None]],
        overrides: frozenset[Override],
    ) -> Release:
        filename, attestations = received.filename, received.attestations
        sha256 = await self._receive(staging / WHEEL, received.wheel)
        verified = verify_release(
            sha256=sha256,
            filename=filename,
            attestations=attestations,
            trust=await self._trust.snapshot(),
            now=self._clock.now(),
            purpose=Purpose.INSTALL,
        )
        before = await history(verified.statement.plugin)
        if before is not None:
            _check_history(verified, before, overrides)
        read = await asyncio.to_thread(
            lambda: read_wheel(read_stored(staging / WHEEL, MAX_ARCHIVE), filename, self._provided)
        )
        _check_statement(verified, read)
        check_metadata(received.metadata_sha256, read)
        with on_disk():
            found = await take_dependencies(
                read, verified.statement.lock_sha256, staging, self._sources, self._distributions
            )
            await to_the_end(asyncio.to_thread(self._store.unpack, staging, read, filename, attestations))
        papers = await scan_staged(self._scanner, staging, read, sha256)
        with on_disk():
            await asyncio.to_thread(self._store.file_papers, staging, {SCAN: papers.report, BILL: papers.bill})
        staging_release = StoredRelease(sha256, filename, staging)
        staged = await asyncio.to_thread(_release, staging_release, verified, read, found)
        description = await self._describe(staged)
        beyond = read.manifest.check(description)
        if beyond:
            raise ReleaseRefusedError(
                "manifest_exceeded", "the code does more than plugin.toml allows: " + "; ".join(beyond), errors=beyond
            )
        known = (self._store.releases / sha256).exists()
        with on_disk():
            release = await to_the_end(
                asyncio.to_thread(lambda: _release(self._store.keep(staging, sha256), verified, read, found))
            )
        committing = asyncio.ensure_future(commit(release, description))
        try:
            await to_the_end(committing)
        except BaseException:  # raised again
            # Who is cancelled does not know whether the registry names the release by now; the commit does.
            if not known and (committing.cancelled() or committing.exception() is not None):
                await asyncio.shield(self.forget(sha256))
            raise
        return release

    async def _discard(self, staging: Path) -> None:
        """Leave nothing in staging; what cannot be removed now goes at the next start, and changes no outcome."""
        try:
            await to_the_end(asyncio.to_thread(self._store.discard_staging, staging))
        except OSError as error:
            _log.warning("staging_not_removed", folder=str(staging), error=str(error))

    async def _receive(self, path: Path, wheel: AsyncIterator[bytes]) -> str:
        """Write the wheel as it comes, bounded, hashing it on the way; its SHA-256."""
        digest = hashlib.sha256()
        size = 0
        with on_disk():
            file = await asyncio.to_thread(path.open, "xb")
        try:
            async for chunk in wheel:
                size += len(chunk)
                if size > self._max_wheel:
                    raise ReleaseTooLargeError("size_limit", f"the wheel has more than {self._max_wheel} bytes")
                digest.update(chunk)
                with on_disk():  # and no more than that: what the sender's connection raises is none of the disk's
                    await asyncio.to_thread(file.write, chunk)
            with on_disk():
                await asyncio.to_thread(_sync, file)
        finally:
            with on_disk():
                await asyncio.to_thread(file.close)
        return digest.hexdigest()


def _check_history(verified: VerifiedRelease, before: InstalledVersion, overrides: frozenset[Override]) -> None:
    """Refuse what a plugin id cannot become: someone else's, other bytes of the same version, or something older.

    Older is a lower version, and a higher one whose `sequence` has not grown. The sequence counts for the key that
    signed: whoever held it could run it up to its end, after which nothing more could follow. A publisher who replaces
    that key (enrol a new one, retire or revoke the old one) may therefore start its sequence anew; its versions still
    only grow. The new key must have been enrolled after the recorded release was taken in, so that none of two keys of
    one time brings back what the other has left behind.

    Raises:
        ReleaseConflictError: `release_publisher_changed`, `release_equivocation` or `release_rollback`.
    """
    statement, plugin = verified.statement, verified.statement.plugin
    if statement.publisher != before.publisher and Override.PUBLISHER not in overrides:
        raise ReleaseConflictError(
            "publisher_changed",
            f"{plugin} came from {before.publisher}; {statement.publisher} takes it over only where an administrator "
            "says so: allowPublisherChange=true, or --allow-publisher-change",
        )
    new, old = Version(statement.version), Version(before.version)
    if new == old and statement.sha256 != before.sha256:
        raise ReleaseConflictError(
            "equivocation", f"{plugin} {before.version} had other bytes: a version names one release for ever"
        )
    behind = statement.sequence <= before.sequence and not _starts_anew(verified, before)
    older = new < old or (new > old and behind)
    if older and Override.DOWNGRADE not in overrides:
        raise ReleaseConflictError(
            "rollback",
            f"{plugin} was at {before.version} (sequence {before.sequence}); {statement.version} (sequence "
            f"{statement.sequence}) is older: an administrator may install it with allowDowngrade=true, or "
            "--allow-downgrade",
        )


def _starts_anew(verified: VerifiedRelease, before: InstalledVersion) -> bool:
    """Whether the key that signed the recorded release was replaced by the one that signed this one."""
    keys = {key.public.id: key for key in verified.publisher.keys}
    old, new = keys.get(before.key_id), keys[verified.key_id]
    return (
        before.key_id not in {"", verified.key_id}
        and verified.publisher.id == before.publisher
        and (old is None or old.state is not KeyState.ACTIVE)
        and new.changed_at > before.recorded_at
    )


def _check_statement(verified: VerifiedRelease, read: ReadWheel) -> None:
    statement = verified.statement
    if statement.record_sha256 != read.record_sha256:
        raise ReleaseRefusedError("subject_mismatch", "the wheel's RECORD is not the one that was signed")
    if statement.plugin != read.manifest.plugin.id or statement.version != read.version:
        raise ReleaseRefusedError("subject_mismatch", "the statement names another plugin or version than the wheel")
    _check_isolation(verified, read)


def _check_isolation(verified: VerifiedRelease, read: ReadWheel) -> None:
    if read.manifest.runtime.isolation == "inline" and verified.publisher.max_isolation != "inline":
        raise PluginRefusedError(
            f"the plugin wants to run inside the host, and {verified.publisher.id} is trusted for processes only: "
            "set the publisher's maxIsolation to 'inline', or isolation = \"process\" in plugin.toml",
            code="plugin_isolation_refused",
        )


def _release(stored: StoredRelease, verified: VerifiedRelease, read: ReadWheel, found: Dependencies) -> Release:
    return Release(
        sha256=stored.sha256,
        plugin=read.manifest.plugin.id,
        version=read.version,
        publisher=verified.publisher.id,
        sequence=verified.statement.sequence,
        filename=stored.filename,
        manifest=read.manifest,
        entry_point=read.entry_point,
        folder=stored.tree,
        dependencies=found.folders(stored.folder),
        cold_start=found.cold_start,
        warnings=verified.warnings,
        key_id=verified.key_id,
        digests=pack({str(stored.tree): hash_files(read.files), **found.digests(stored.folder)}),
    )


def _sync(file: object) -> None:
    file.flush()  # type: ignore[attr-defined]  # a binary file
    os.fsync(file.fileno())  # type: ignore[attr-defined]  # as above
