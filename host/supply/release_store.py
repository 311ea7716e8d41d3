"""The release store: every release under the SHA-256 of its wheel, read-only, whole or not there at all.

`releases/<sha256>/` holds the wheel, its attestations and the unpacked `tree/`. A release is written under
`staging/` and renamed into place, so a crash leaves a staging folder at most, which the next start removes.
All functions here block; callers run them in a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.supply.errors import ReleaseRefusedError
from host.supply.wheel_reader import ReadWheel
from host.supply.wheel_record import digest_of, parse_record

WHEEL: Final = "release.whl"
NAME: Final = "filename"
ATTESTATIONS: Final = "attestations.jsonl"
TREE: Final = "tree"
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


class ReleaseStore:
    """The releases of one host."""

    def __init__(self, root: Path) -> None:
        self.releases = root / "releases"
        self.staging = root / "staging"

    def open(self, keep: Iterable[str]) -> tuple[str, ...]:
        """Make the folders and remove what a crash left: all of staging, and releases not in `keep`.

        Answers the hashes of the releases that were removed.
        """
        for folder in (self.releases, self.staging):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        for left in self.staging.iterdir():
            _remove(left)
        wanted = set(keep)
        orphans = tuple(found.name for found in self.releases.iterdir() if found.name not in wanted)
        for name in orphans:
            _remove(self.releases / name)
        return orphans

    def new_staging(self) -> Path:
        """A fresh folder to receive a release in."""
        folder = self.staging / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        return folder

    def discard_staging(self, folder: Path) -> None:
        """Remove a staging folder, whatever is in it."""
        _remove(folder)

    def unpack(self, staging: Path, wheel: ReadWheel, filename: str, attestations: bytes) -> None:
        """Write the files of a wheel that was read strictly, each beside the wheel in its staging folder."""
        tree = staging / TREE
        for path, content in wheel.files.items():
            _write(tree / path, content)
        _write(staging / ATTESTATIONS, attestations)
        _write(staging / NAME, filename.encode())
        (staging / WHEEL).chmod(0o444)
        staging.chmod(0o711)  # the worker that describes it may run as another user
        _seal(tree)

    def keep(self, staging: Path, sha256: str) -> StoredRelease:
        """Rename a staged release into place; one that is there already is the same bytes, and stays."""
        target = self.releases / sha256
        if target.exists():
            _remove(staging)
        else:
            staging.chmod(0o755)
            staging.rename(target)
            target.chmod(0o555)
            _sync_folder(self.releases)
        return self.find(sha256)

    def find(self, sha256: str) -> StoredRelease:
        """A stored release.

        Raises:
            ReleaseRefusedError: `release_modified` where it is not there whole.
        """
        folder = self.releases / sha256
        try:
            filename = (folder / NAME).read_text(encoding="utf-8")
        except OSError as error:
            raise _modified(f"it cannot be read ({error.strerror})") from None
        return StoredRelease(sha256, filename, folder)

    def remove(self, sha256: str) -> None:
        """Forget a release."""
        if _SHA256.fullmatch(sha256):
            _remove(self.releases / sha256)

    def check_wheel(self, release: StoredRelease) -> None:
        """Hash the stored wheel anew.

        Raises:
            ReleaseRefusedError: `release_modified`.
        """
        try:
            with release.wheel.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _modified(f"its wheel cannot be read ({error.strerror})") from None
        if found != release.sha256:
            raise _modified("its wheel has other bytes")

    def check_tree(self, release: StoredRelease, record: bytes, record_name: str) -> None:
        """Hold the unpacked tree against the RECORD of the signed wheel: nothing missing, altered or added.

        Raises:
            ReleaseRefusedError: `release_modified`, naming the first file that is wrong.
        """
        wanted = parse_record(record, record_name)
        folders = {""}
        for path in (*wanted, record_name):
            parts = path.split("/")[:-1]
            folders.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
        seen: set[str] = set()
        for base, below, files in os.walk(release.tree, followlinks=False):
            for name in (*below, *files):
                full = Path(base) / name
                path = full.relative_to(release.tree).as_posix()
                mode = full.lstat().st_mode
                if stat.S_ISDIR(mode):
                    if path not in folders:
                        raise _modified(f"the folder {path} was added")
                    continue
                if not stat.S_ISREG(mode) or full.lstat().st_nlink != 1:
                    raise _modified(f"{path} is no plain file any more")
                if path == record_name:
                    if full.read_bytes() != record:
                        raise _modified(f"{path} was altered")
                elif path not in wanted:
                    raise _modified(f"{path} was added")
                else:
                    algorithm, digest = wanted[path]
                    if digest_of(algorithm, full.read_bytes()) != digest:
                        raise _modified(f"{path} was altered")
                if mode & 0o222:
                    raise _modified(f"{path} was made writable")
                seen.add(path)
        missing = (wanted.keys() | {record_name}) - seen
        if missing:
            raise _modified(f"{min(missing)} is missing")


def _modified(why: str) -> ReleaseRefusedError:
    return ReleaseRefusedError("modified", f"the release on disk is not what was signed: {why}; install it again")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


def _seal(tree: Path) -> None:
    """Make every folder read-only, the deepest first, and their entries durable."""
    for base, _, _ in os.walk(tree, topdown=False):
        _sync_folder(Path(base))
        Path(base).chmod(0o555)
    _sync_folder(tree.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a folder whose folders may be read-only."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for base, _, _ in os.walk(path):
        Path(base).chmod(0o700)
    shutil.rmtree(path)
