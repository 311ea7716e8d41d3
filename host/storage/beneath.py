"""Folders that the host keeps things in, reached by descriptors: no link below them is followed, nothing waits.

Whatever lies in the state folder may have been put there by somebody else while the host was down. A link in the place
of a folder would have the host write or delete where it leads, with the host's own rights; a pipe in the place of a
file would keep it waiting for ever. So each step down is taken from the folder above it, by its descriptor, and what
is opened is looked at before it is read (openat(2), `O_NOFOLLOW`). The folder that one starts from is the operator's
choice, and may be reached through links. All functions here block; callers run them in a thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from host.storage.errors import OddFileError
from plugin_sdk.worker.file_errors import is_of_the_file

# A pipe or a terminal in the place of a file is opened at once, and found out then.
_PLAIN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PRIVATE_FILE: Final = 0o600
NO_FILE: Final = "is no plain file (no link is followed here, and no pipe or device read)"
NO_FOLDER: Final = "is no folder (no link is followed here)"


class Folder:
    """An open folder; leaving it as a context closes it.

    Names are names: one with a slash, or `..`, raises ValueError.

    Attributes:
        path: Where it was found, for sentences.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.path = path

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open a folder where its path leads.

        Raises:
            OSError: it is not there, is no folder, or cannot be opened.
        """
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; once."""
        os.close(self.descriptor)

    # -- looking

    def names(self) -> list[str]:
        """What is in it."""
        return sorted(os.listdir(self.descriptor))  # noqa: PTH208 - a path is what this class does without

    def status(self, name: str) -> os.stat_result | None:
        """What lies under a name, itself and not what it leads to; None where nothing does."""
        try:
            return os.stat(_checked(name), dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def below(self, name: str, *, make: int | None = None) -> Folder:
        """Open a folder in it; where `make` is a mode and nothing lies there, it is made.

        Raises:
            OddFileError: a link, or something that is no folder, lies there.
            OSError: it is not there, or cannot be opened.
        """
        if make is not None and self.status(name) is None:
            with contextlib.suppress(FileExistsError):  # another process was faster: it is looked at as any other
                os.mkdir(_checked(name), make, dir_fd=self.descriptor)
        try:
            return Folder(os.open(_checked(name), _FOLDER, dir_fd=self.descriptor), self.path / name)
        except OSError as error:
            self._refuse_odd(name, error, NO_FOLDER)
            raise

    def open(self, name: str, flags: int, mode: int = PRIVATE_FILE) -> int:
        """A descriptor of a plain file in it. It never waits; with `O_CREAT` in `flags` the file is made.

        Raises:
            OddFileError: a link, or something that is no plain file, lies there.
            OSError: it is not there, or cannot be opened.
        """
        try:
            descriptor = os.open(_checked(name), flags | _PLAIN, mode, dir_fd=self.descriptor)
        except OSError as error:
            self._refuse_odd(name, error, NO_FILE)
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OddFileError(self.path / name, NO_FILE)
        return descriptor

    def read(self, name: str, limit: int) -> bytes:
        """The content of a plain file of at most `limit` bytes; errors as of `open`.

        Raises:
            OddFileError: it has more than `limit` bytes, too.
        """
        return _content(self.open(name, os.O_RDONLY), self.path / name, limit)

    # -- changing

    def replace(self, name: str, content: bytes) -> None:
        """Put a file of this content there, for its owner alone; durable, and whole or as before after a crash.

        Raises:
            OSError: it cannot be written.
        """
        # Nobody can have put anything under a name that nobody could guess.
        fresh = f".{name}.{secrets.token_hex(8)}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN, PRIVATE_FILE, dir_fd=self.descriptor)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, _checked(name), src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except BaseException:  # no half of a file is left; raised again
            os.unlink(fresh, dir_fd=self.descriptor)
            raise
        self.sync()

    def move(self, name: str, into: Folder, new: str = "") -> None:
        """Move what lies under a name into another folder, by default under the same; durable once both are synced.

        A folder that is moved may be written into afterwards: only then can its entry for the folder above be changed.
        """
        status = self.status(name)
        if status is not None and stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_IWUSR:
            self._writable(name, 0o755).close()
        os.rename(_checked(name), _checked(new or name), src_dir_fd=self.descriptor, dst_dir_fd=into.descriptor)

    def sync(self) -> None:
        """Make its entries durable."""
        os.fsync(self.descriptor)

    def remove(self, name: str) -> None:
        """Remove what lies under a name, a folder with all that is in it; nothing where nothing is.

        A link is removed itself. However deep the folders are nested, a handful of descriptors is enough.
        """
        status = self.status(name)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(_checked(name), dir_fd=self.descriptor)
            return
        with self._writable(name) as folder:
            while names := folder.names():
                for one in names:
                    folder._flatten(one)  # noqa: SLF001 - another one of this class
        os.rmdir(_checked(name), dir_fd=self.descriptor)

    # -- inside

    def _flatten(self, name: str) -> None:
        """Remove what lies under a name; what folders are in it come up into this one, under other names."""
        status = self.status(name)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=self.descriptor)
            return
        with self._writable(name) as inner:
            for one in inner.names():
                found = inner.status(one)
                if found is not None and stat.S_ISDIR(found.st_mode):
                    inner.move(one, self, secrets.token_hex(16))
                elif found is not None:
                    os.unlink(one, dir_fd=inner.descriptor)
        os.rmdir(name, dir_fd=self.descriptor)

    def _writable(self, name: str, mode: int = 0o700) -> Folder:
        """Open a folder in it whose mode may not allow that yet."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        place = os.open(_checked(name), flags, dir_fd=self.descriptor)
        try:
            Path(f"/proc/self/fd/{place}").chmod(mode)  # the folder itself, whatever its name leads to by now
        finally:
            os.close(place)
        return self.below(name)

    def _refuse_odd(self, name: str, error: OSError, why: str) -> None:
        """Say what is wrong where something could not be opened because it is something else."""
        if is_of_the_file(error) and self.status(name) is not None:
            raise OddFileError(self.path / name, why) from None


def read_plain(path: Path, limit: int) -> bytes:
    """The content of a file that an operator named, through whatever links it is reached; it never waits.

    Raises:
        OddFileError: it is no plain file, or has more than `limit` bytes.
        OSError: it is not there, or cannot be read.
    """
    return _content(open_plain(path), path, limit)


def open_plain(path: Path) -> int:
    """A descriptor of a file that an operator named, to be read; errors as of `read_plain`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OddFileError(path, "is no plain file (no pipe, device or folder is read)")
    return descriptor


def _content(descriptor: int, path: Path, limit: int) -> bytes:
    """What is in an open plain file, which is closed."""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        # Not by its size: a file may grow while it is read, or say that it has none (those in /proc).
        parts: list[bytes] = []
        left = limit + 1
        while left and (part := file.read(min(left, 2**20))):
            parts.append(part)
            left -= len(part)
    if not left:
        raise OddFileError(path, f"has more than {limit} bytes")
    return b"".join(parts)


def _checked(name: str) -> str:
    if not name or "/" in name or name in {".", ".."}:
        raise ValueError(f"{name!r} is no name of a file")
    return name
