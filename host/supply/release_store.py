"""The release store: every release under the SHA-256 of its wheel, read-only, whole or not there at all.

`releases/<sha256>/` holds the wheel, its attestations and the unpacked `tree/`; beside it, where the plugin brings
dependencies, `wheels/` with each of their wheels and `dependencies/<name>-<version>/` with what is in it. The report
of its scan and its bill of materials stand there too. A release
is written under `staging/` and renamed into place, so a crash leaves a staging folder at most, which the next start
removes. All functions here block; callers run them in a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.storage.beneath import Folder
from host.storage.errors import OddFileError
from host.storage.state_folder import RELEASES, STAGING
from host.supply.dependencies.lock import LockedWheel
from host.supply.dependencies.wheel import DependencyWheel, Distribution
from host.supply.errors import PaperNotFoundError, ReleaseRefusedError
from host.supply.sealed_tree import (
    check_tree,
    modified,
    not_read,
    read_stored,
    same,
    sync_folder,
    write_sealed,
    write_tree,
)
from host.supply.trust.dsse import MAX_BUNDLE
from host.supply.wheel.filename import MAX_FILENAME
from host.supply.wheel.reader import ReadWheel
from host.supply.wheel.structure import MAX_ARCHIVE

WHEEL: Final = "release.whl"
NAME: Final = "filename"
ATTESTATIONS: Final = "attestations.jsonl"
TREE: Final = "tree"
WHEELS: Final = "wheels"
SCAN: Final = "scan.json"
BILL: Final = "bill.cdx.json"
DEPENDENCIES: Final = "dependencies"
MAX_PAPER: Final = 64 * 2**20
"""Bytes of a report or a bill of materials."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """Where a release is, and what was stored with it."""

    sha256: str
    filename: str
    folder: Path

    @property
    def tree(self) -> Path:
        """The unpacked wheel; what goes onto a worker's path."""
        return self.folder / TREE

    @property
    def wheel(self) -> Path:
        """The wheel as it was signed."""
        return self.folder / WHEEL

    @property
    def attestations(self) -> Path:
        """The attestations that came with it."""
        return self.folder / ATTESTATIONS

    @property
    def wheels(self) -> Path:
        """The wheels of its dependencies, each under its own name."""
        return self.folder / WHEELS

    @property
    def dependencies(self) -> Path:
        """The unpacked wheels of its dependencies, one folder for each."""
        return self.folder / DEPENDENCIES


class ReleaseStore:
    """The releases of one host."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.releases = root / RELEASES
        self.staging = root / STAGING

    def open(self, keep: Iterable[str] | None) -> tuple[str, ...]:
        """Make the folders and remove what a crash left: all of staging, and releases not in `keep`.

        Where `keep` is None nobody knows which releases are wanted, and none is removed. Answers the hashes of those
        that were.

        Raises:
            OddFileError: a link, or something that is no folder, lies in the place of one.
        """
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._folder(STAGING, make=0o755) as staging:
            for left in staging.names():
                staging.remove(left)
        with self._folder(RELEASES, make=0o755) as releases:
            wanted = None if keep is None else set(keep)
            orphans = () if wanted is None else tuple(name for name in releases.names() if name not in wanted)
            for name in orphans:
                releases.remove(name)
        return orphans

    def new_staging(self) -> Path:
        """A fresh folder to receive a release in."""
        name = secrets.token_hex(8)
        with self._folder(STAGING) as staging, staging.below(name, make=0o700):
            return self.staging / name

    def discard_staging(self, folder: Path) -> None:
        """Remove a staging folder, whatever is in it."""
        with self._folder(STAGING) as staging:
            staging.remove(folder.name)

    def unpack(self, staging: Path, wheel: ReadWheel, filename: str, attestations: bytes) -> None:
        """Write the files of a wheel that was read strictly, each beside the wheel in its staging folder."""
        write_sealed(staging / ATTESTATIONS, attestations)
        write_sealed(staging / NAME, filename.encode())
        (staging / WHEEL).chmod(0o444)
        staging.chmod(0o711)  # the worker that describes it may run as another user
        write_tree(staging / TREE, wheel.files)

    def file_papers(self, staging: Path, papers: Mapping[str, bytes]) -> None:
        """Write what is kept with a release beside it, by its name."""
        for name, content in papers.items():
            write_sealed(staging / name, content)

    def paper(self, sha256: str, name: str) -> bytes:
        """What is kept with a release.

        Raises:
            PaperNotFoundError: nothing of that name is, or it is none that this host wrote.
        """
        try:
            return read_stored(self.releases / sha256 / name, MAX_PAPER)
        except ReleaseRefusedError:
            raise PaperNotFoundError(f"no {name} is kept with the release {sha256[:16]}…: install it anew") from None

    def keep(self, staging: Path, sha256: str) -> StoredRelease:
        """Rename a staged release into place.

        One that is there already stays, because a worker may be running from it, and takes over the attestations,
        which may be newer. One that is there and differs is not what was signed, or has dependencies for another
        Python; no plugin can start from it any more, so it gives way.
        """
        target, old = self.releases / sha256, f"{staging.name}.old"
        with self._folder(STAGING) as staged, self._folder(RELEASES) as releases:
            if releases.status(sha256) is not None:
                if all(same(staging / name, target / name) for name in (WHEEL, NAME, TREE, WHEELS, DEPENDENCIES)):
                    with staged.below(staging.name) as fresh, releases.below(sha256) as known:
                        os.fchmod(known.descriptor, 0o755)
                        for paper in (ATTESTATIONS, SCAN, BILL):  # the newer ones, where there are some
                            if fresh.status(paper) is not None:
                                fresh.move(paper, known)
                        os.fchmod(known.descriptor, 0o555)
                        known.sync()
                    staged.remove(staging.name)
                    return self.find(sha256)
                releases.move(sha256, staged, old)
            with staged.below(staging.name) as fresh:
                os.fchmod(fresh.descriptor, 0o755)
                staged.move(staging.name, releases, sha256)
                os.fchmod(fresh.descriptor, 0o555)
            sync_folder(self.releases)
            staged.remove(old)
        return self.find(sha256)

    def find(self, sha256: str) -> StoredRelease:
        """A stored release.

        Raises:
            ReleaseRefusedError: `release_modified` where it is not there whole.
            StorageFailedError: the machine refuses to say; so for all that reads below.
        """
        folder = self.releases / sha256
        try:
            with self._folder(RELEASES) as releases:
                status = releases.status(sha256)
        except (OSError, OddFileError) as error:
            raise not_read("its folder", error) from None
        if status is None:
            raise modified("its folder is gone")
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
            raise modified("its folder is none any more, or others may write into it")
        try:
            filename = read_stored(folder / NAME, 4 * MAX_FILENAME).decode()
        except UnicodeDecodeError:
            raise modified("its file name is no text any more") from None
        return StoredRelease(sha256, filename, folder)

    def remove(self, sha256: str) -> None:
        """Forget a release."""
        if _SHA256.fullmatch(sha256):
            with self._folder(RELEASES) as releases:
                releases.remove(sha256)

    def wheel_of(self, release: StoredRelease) -> bytes:
        """The bytes of the stored wheel, hashed anew; what was hashed is what is answered.

        Raises:
            ReleaseRefusedError: `release_modified`.
        """
        content = read_stored(release.wheel, MAX_ARCHIVE)
        if hashlib.sha256(content).hexdigest() != release.sha256:
            raise modified("its wheel has other bytes")
        return content

    def attestations_of(self, release: StoredRelease) -> bytes:
        """The stored attestations.

        Raises:
            ReleaseRefusedError: `release_modified`.
        """
        return read_stored(release.attestations, MAX_BUNDLE)

    def check_tree(self, release: StoredRelease, wheel: ReadWheel) -> None:
        """Hold the unpacked tree against the RECORD of the signed wheel: nothing missing, altered or added.

        Raises:
            ReleaseRefusedError: `release_modified`, naming the first file that is wrong.
        """
        check_tree(release.tree, wheel.record, wheel.record_name)

    @contextmanager
    def _folder(self, name: str, *, make: int | None = None) -> Iterator[Folder]:
        """One of the two folders, which are no links."""
        with Folder.at(self._root) as root, root.below(name, make=make) as folder:
            yield folder


def dependency_folder(release: Path, one: Distribution | LockedWheel) -> Path:
    """Where the folder of a release, staged or stored, has an unpacked dependency."""
    return release / DEPENDENCIES / f"{one.name}-{one.version}"


def unpack_dependency(staging: Path, wheel: DependencyWheel) -> None:
    """Write the files of a dependency whose wheel is in the staging folder already."""
    (staging / WHEELS / wheel.filename).chmod(0o444)
    write_tree(dependency_folder(staging, wheel.distribution), wheel.files)


def seal_dependencies(staging: Path) -> None:
    """Make the folders that hold all wheels and all dependencies read-only, once nothing more comes."""
    for folder in (staging / WHEELS, staging / DEPENDENCIES):
        sync_folder(folder)
        folder.chmod(0o555)


def check_dependency(release: StoredRelease, wheel: DependencyWheel) -> None:
    """Hold an unpacked dependency against its wheel, whose bytes have been compared with the lock.

    Raises:
        ReleaseRefusedError: `release_modified`, naming the first file that is wrong.
    """
    check_tree(
        dependency_folder(release.folder, wheel.distribution),
        wheel.files[wheel.record_name],
        wheel.record_name,
        left_out=wheel.left_out,
        of=f"{wheel.distribution.name} {wheel.distribution.version}",
    )


def check_dependency_folders(release: StoredRelease, wanted: Iterable[LockedWheel]) -> None:
    """See that a release has the wheels and the folders of these dependencies, and no others.

    Raises:
        ReleaseRefusedError: `release_modified` where something was added; `release_dependency_stale` where something
            that its lock selects now is not there: this is another Python than it was installed for.
    """
    locked = tuple(wanted)
    for place, names in (
        (release.wheels, {one.filename for one in locked}),
        (release.dependencies, {dependency_folder(release.folder, one).name for one in locked}),
    ):
        found = _names(release.folder, place.name)
        if names - found:
            raise ReleaseRefusedError(
                "dependency_stale",
                f"the release's lock selects {min(names - found)} for this Python and machine, which is not "
                "installed: install the release again",
            )
        if found - names:
            raise modified(f"{place.name}/{min(found - names)} was added")


def _names(release: Path, name: str) -> set[str]:
    """What is in a folder of a release, which need not have it."""
    try:
        with Folder.at(release) as folder:
            if folder.status(name) is None:
                return set()
            with folder.below(name) as inner:
                return set(inner.names())
    except (OSError, OddFileError) as error:
        raise not_read(name, error) from None
