"""A plugin's own dependencies: taken in with the release, and verified again at every start.

The chain is one of hashes: the signature is over the plugin's wheel, in which the lock is; the lock has the hash of
each dependency's wheel; that wheel is kept beside the release, and its RECORD has the hash of every unpacked file.
All that a lock selects is installed, also what workers have in the same version today: when the host has another
version of it tomorrow, the plugin goes on with its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.supply.cancellation import to_the_end
from host.supply.dependencies.fetch import DependencySources, fetch_wheels
from host.supply.dependencies.fit import DependencySet, fit_together
from host.supply.dependencies.lock import LockedWheel, check_lock
from host.supply.dependencies.wheel import Distribution, read_dependency
from host.supply.errors import ReleaseTooLargeError
from host.supply.release_store import (
    WHEELS,
    StoredRelease,
    check_dependency,
    check_dependency_folders,
    dependency_folder,
    seal_dependencies,
    unpack_dependency,
)
from host.supply.sealed_tree import modified, read_stored
from host.supply.wheel.reader import ReadWheel
from host.supply.wheel.structure import MAX_ARCHIVE
from plugin_sdk.worker.digests import hash_files

UNPACKED: Final = 4
"""How many times as large as their wheels may be altogether, dependencies may be once they are unpacked."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a worker of a release imports besides the release and the SDK.

    Attributes:
        used: In the order of the worker's path.
        cold_start: Why the worker has to start cold, or nothing.
        files: The SHA-256 of every file of each that is used.
    """

    used: tuple[Distribution, ...] = ()
    cold_start: str = ""
    files: tuple[Mapping[str, bytes], ...] = ()

    def folders(self, release: Path) -> tuple[Path, ...]:
        """The folders that go onto the worker's path, of a release in this folder, staged or stored."""
        return tuple(dependency_folder(release, one) for one in self.used)

    def digests(self, release: Path) -> dict[str, Mapping[str, bytes]]:
        """The same folders, each with what its files hash to."""
        return dict(zip(map(str, self.folders(release)), self.files, strict=True))


async def take_dependencies(
    read: ReadWheel,
    lock_sha256: str | None,
    staging: Path,
    sources: DependencySources,
    provided: Sequence[Distribution],
) -> Dependencies:
    """Get, read and unpack what a plugin's lock selects into the staging folder of its release.

    Args:
        read: The plugin's wheel.
        lock_sha256: What the signed statement says of its lock.
        staging: The folder that the release is received in.
        sources: Where wheels may come from.
        provided: What workers have already.

    Raises:
        SupplyError: the first rule that is broken; the caller removes the staging folder.
    """
    check_lock(read.lock, lock_sha256)
    wanted = () if read.lock is None else read.lock.wheels
    if not wanted:
        return _described(fit_together(read, (), provided), {})
    folder = staging / WHEELS
    await asyncio.to_thread(folder.mkdir)
    await fetch_wheels(wanted, folder, sources)

    def unpack() -> Dependencies:
        brought, size = [], 0
        files: dict[str, Mapping[str, bytes]] = {}
        for locked in wanted:
            wheel = read_dependency((folder / locked.filename).read_bytes(), locked)
            size += sum(map(len, wheel.files.values()))
            if size > UNPACKED * sources.max_bytes:
                raise ReleaseTooLargeError(
                    "dependency_size_limit",
                    f"the dependencies have more than {UNPACKED * sources.max_bytes} bytes unpacked, which is "
                    f"{UNPACKED} times supply.dependency_size",
                )
            unpack_dependency(staging, wheel)
            brought.append(wheel.distribution)
            files[locked.name] = hash_files(wheel.files)
        found = fit_together(read, brought, provided)
        seal_dependencies(staging)
        return _described(found, files)

    return await to_the_end(asyncio.to_thread(unpack))


def check_dependencies(
    read: ReadWheel, lock_sha256: str | None, release: StoredRelease, provided: Sequence[Distribution]
) -> Dependencies:
    """Verify the dependencies of a stored release whose own wheel has been verified; blocks.

    Raises:
        ReleaseRefusedError: `release_modified`, `release_lock_mismatch`, or `release_dependency_stale` and
            `release_dependency_conflict` where this host is another than it was installed on.
        SupplyError: another rule that is broken now.
    """
    check_lock(read.lock, lock_sha256)
    wanted = () if read.lock is None else read.lock.wheels
    check_dependency_folders(release, wanted)
    brought = []
    files: dict[str, Mapping[str, bytes]] = {}
    for locked in wanted:
        wheel = read_dependency(_locked_bytes(release, locked), locked)
        check_dependency(release, wheel)
        brought.append(wheel.distribution)
        files[locked.name] = hash_files(wheel.files)
    return _described(fit_together(read, brought, provided), files)


def _locked_bytes(release: StoredRelease, locked: LockedWheel) -> bytes:
    """The bytes of a stored wheel, which are those that the signed lock demands."""
    content = read_stored(release.wheels / locked.filename, MAX_ARCHIVE)
    if any(hashlib.new(name, content).hexdigest() != digits for name, digits in locked.hashes):
        raise modified(f"{locked.filename} has other bytes")
    return content


def _described(found: DependencySet, files: Mapping[str, Mapping[str, bytes]]) -> Dependencies:
    cold_start = f"it brings {', '.join(found.clashes)}" if found.clashes else ""
    return Dependencies(found.used, cold_start, tuple(files[one.name] for one in found.used))
