"""A folder that holds exactly the files of one wheel: written once, read-only from then on, checked against its RECORD.

All functions here block; callers run them in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from host.errors import BusbarError
from host.storage.errors import OddFileError, StorageFailedError, unreadable
from host.supply.errors import ReleaseRefusedError
from host.supply.wheel.record import digest_of, parse_record
from host.supply.wheel.structure import MAX_FILE
from plugin_sdk.worker.file_errors import is_of_the_file


def write_tree(tree: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder and seal it: durable, and nobody's to change."""
    for path, content in files.items():
        write_sealed(tree / path, content)
    seal(tree)


def write_sealed(path: Path, content: bytes) -> None:
    """Write one new file, durable and read-only; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


def seal(folder: Path) -> None:
    """Make a folder and all below it read-only, the deepest first, and their entries durable."""
    for base, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(base))
        Path(base).chmod(0o555)
    sync_folder(folder.parent)


def read_stored(path: Path, limit: int) -> bytes:
    """A file as this host wrote it: regular, in this place alone, and of at most `limit` bytes. It never waits.

    Everything that is read from a stored release is read so. A link could lead anywhere, and to something else at
    the next look; a pipe would keep the start waiting for ever, and a file without end would take all memory.

    Raises:
        ReleaseRefusedError: `release_modified`.
        StorageFailedError: the machine refuses to read it, which says nothing of what is in it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise modified(f"{path.name} is no plain file any more")
            if status.st_size > limit:
                raise modified(f"{path.name} has more than {limit} bytes")
            content = file.read(status.st_size + 1)
    except OSError as error:
        raise not_read(path.name, error, path) from None
    if len(content) != status.st_size:
        raise modified(f"{path.name} changes while it is read")
    return content


def check_tree(
    tree: Path, record: bytes, record_name: str, *, left_out: AbstractSet[str] = frozenset(), of: str = ""
) -> None:
    """Hold a folder against the RECORD of a wheel whose bytes are known to be right: nothing missing, altered or added.

    `left_out` are files in RECORD that were not installed. `of` names a dependency in the sentence.

    Raises:
        ReleaseRefusedError: `release_modified`, naming the first file that is wrong.
        StorageFailedError: the machine refuses to say.
    """
    wanted: dict[str, tuple[str, str] | None] = {
        path: row for path, row in parse_record(record, record_name).items() if path not in left_out
    }
    wanted[record_name] = None
    folders = {"/".join(parts[:depth]) for parts in (path.split("/") for path in wanted) for depth in range(len(parts))}
    seen: set[str] = set()
    widened = ""
    top = f"the folder of {of or 'its files'}"
    status = _status(tree, top)
    if not stat.S_ISDIR(status.st_mode):
        raise modified(f"{top} is none any more")
    if status.st_mode & 0o222:
        widened = top
    for base, below, files in os.walk(tree, onerror=lambda error: _cannot_list(tree, error), followlinks=False):
        for name in (*below, *files):
            full = Path(base) / name
            path = full.relative_to(tree).as_posix()
            shown = f"{of}/{path}" if of else path
            found = _status(full, shown)
            if stat.S_ISDIR(found.st_mode):
                if path not in folders:
                    raise modified(f"the folder {shown} was added")
            elif not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise modified(f"{shown} is no plain file any more")
            elif path not in wanted:
                raise modified(f"{shown} was added")
            elif not _holds(full, wanted[path], record):
                raise modified(f"{shown} was altered")
            if found.st_mode & 0o222:
                widened = widened or shown
            seen.add(path)
    missing = wanted.keys() - seen
    if missing:
        raise modified(f"{of + '/' if of else ''}{min(missing)} is missing")
    if widened:
        raise modified(f"{widened} was made writable")


def _holds(path: Path, row: tuple[str, str] | None, record: bytes) -> bool:
    """Whether a file is what its row in RECORD says; RECORD itself has none."""
    content = read_stored(path, MAX_FILE)
    return content == record if row is None else digest_of(row[0], content) == row[1]


def same(left: Path, right: Path) -> bool:
    """Whether two files or folders hold the same, all the way down, with the same modes."""
    return _fingerprint(left) == _fingerprint(right)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def on_disk() -> Iterator[None]:
    """What the disk refuses in here is the host's trouble and not the release's: it may come again.

    Raises:
        StorageFailedError: the disk is full, or fails.
    """
    try:
        yield
    except OSError as error:
        raise StorageFailedError(
            f"the release cannot be kept ({error.strerror or error}): make room on the disk of the host's state, then "
            "install it again",
            retry_after=5.0,
        ) from error


def modified(why: str) -> ReleaseRefusedError:
    """What is on disk is not what was signed."""
    return ReleaseRefusedError("modified", f"the release on disk is not what was signed: {why}; install it again")


def not_read(what: str, error: OSError | OddFileError, path: Path | None = None) -> BusbarError:
    """The error to raise where something of a stored release could not be read: the release's fault, or the machine's.

    Without descriptors, memory or a disk that works, nothing can be said of the release, and it is not refused: it is
    looked at again later. `path` is what was read: one whose owner may not read it is not as the host wrote it.
    """
    if isinstance(error, OddFileError) or error.errno == errno.ELOOP:
        return modified(f"{what} is no plain file or folder any more")
    if is_of_the_file(error):
        return modified(f"{what} cannot be read ({error.strerror})")
    if error.errno == errno.EACCES and path is not None and not _readable_by_mode(path):
        return modified(f"{what} was made unreadable")
    return unreadable(f"the release's {what}", error)


def _readable_by_mode(path: Path) -> bool:
    try:
        return bool(path.lstat().st_mode & stat.S_IRUSR)
    except OSError:
        return True  # nothing is known of it


def _status(path: Path, shown: str) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise not_read(shown, error) from None


def _cannot_list(tree: Path, error: OSError) -> NoReturn:
    """A folder that cannot be listed would else pass for an empty one, and every file in it for one that is missing."""
    path = Path(error.filename)
    raise not_read(path.relative_to(tree).as_posix(), error, path)


def _fingerprint(path: Path) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    waiting = [path] if os.path.lexists(path) else []
    while waiting:
        one = waiting.pop()
        mode = one.lstat().st_mode
        digest = ""
        if stat.S_ISDIR(mode):
            waiting.extend(one.iterdir())
        elif stat.S_ISREG(mode):
            with one.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[one.relative_to(path).as_posix()] = (mode, digest)
    return found
