"""The state folder as a whole: found once, looked at before anything in it is used, and one daemon's at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final, Self

import structlog

from host.storage.beneath import NO_FOLDER, Folder
from host.storage.connection import LOCK_SUFFIX
from host.storage.errors import OddFileError, StateBusyError, StateFolderError

DATABASE: Final = "busbar.db"
LOG_AHEAD: Final = "busbar.db-wal"
KEY_VALUES: Final = "key-values.db"
KEY_VALUES_AHEAD: Final = "key-values.db-wal"
KEYRING: Final = "keyring"
LOCK: Final = "lock"
WRITER_LOCK: Final = DATABASE + LOCK_SUFFIX
SEALS: Final = "seals"
RELEASES: Final = "releases"
STAGING: Final = "staging"
DATA: Final = "data"
SDK: Final = "sdk"

_OF_DATABASES: Final = (
    *(DATABASE, LOG_AHEAD, "busbar.db-shm", "busbar.db-journal"),
    *(KEY_VALUES, KEY_VALUES_AHEAD, "key-values.db-shm", "key-values.db-journal"),
)
_SINGLE: Final = (*_OF_DATABASES, LOCK, WRITER_LOCK)
"""Files with one name alone: SQLite finds the log of a database by its name, and an older one by another."""
_FILES: Final = (*_SINGLE, KEYRING)
_FOLDERS: Final = (SEALS, RELEASES, STAGING, DATA, SDK)
_NO_LOCKS: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
"""How file systems say that a folder cannot be locked (NFS wants it open for writing, which no folder is)."""

_log = structlog.get_logger(__name__)


class StateFolder:
    """A state folder that this process has to itself. Make it with `open`.

    Attributes:
        path: Where it is, with every link on the way resolved; what is below is reached without following any.
    """

    def __init__(self, path: Path, folder: Folder, lock: int) -> None:
        self.path = path
        self._folder = folder
        self._lock = lock
        self._kept: dict[str, tuple[int, int]] = {}

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Take a state folder, which is made where it is not there; blocks for a few small file operations.

        Raises:
            StateBusyError: another daemon has it.
            StateFolderError: everybody may write into it.
            OddFileError: a link, a pipe or the like lies where the host keeps something of its own.
            OSError: it cannot be made or opened.
        """
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = directory.resolve()
        with contextlib.ExitStack() as undo:
            folder = undo.enter_context(Folder.at(path))
            _check_owner(folder)
            _lock_folder(folder)
            lock = folder.open(LOCK, os.O_RDWR | os.O_CREAT)
            undo.callback(os.close, lock)
            _lock(lock, path)
            _check_entries(folder)
            undo.pop_all()
        return cls(path, folder, lock)

    def close(self) -> None:
        """Let another daemon have it."""
        os.close(self._lock)
        self._folder.close()

    def watch_databases(self) -> None:
        """Notice from now on where what the writers need is taken away; call once all of it is open."""
        for name in (DATABASE, LOG_AHEAD, WRITER_LOCK, KEY_VALUES, KEY_VALUES_AHEAD):
            status = self._folder.status(name)
            if status is not None:
                self._kept[name] = (status.st_dev, status.st_ino)

    def missing(self) -> tuple[str, ...]:
        """Which files that are in use are no longer where they were, or others lie in their places."""
        status = os.fstat(self._lock)
        kept = {LOCK: (status.st_dev, status.st_ino), **self._kept}
        gone = []
        for name, was in kept.items():
            found = self._folder.status(name)
            if found is None or (found.st_dev, found.st_ino) != was:
                gone.append(name)
        return tuple(gone)


def _check_owner(folder: Folder) -> None:
    status = os.fstat(folder.descriptor)
    if status.st_mode & stat.S_IWOTH:
        raise StateFolderError(
            f"everybody may write into {folder.path}, and so put other plugins, tokens and keys there: run "
            f"`chmod o-w {folder.path}`, and look at what is in it"
        )
    if status.st_uid not in {os.geteuid(), 0}:
        # Its owner can change everything in it, as root can. That may be meant: a volume that is handed over.
        _log.warning("state_folder_of_another_user", folder=str(folder.path), user=status.st_uid)


def _lock_folder(folder: Folder) -> None:
    """Lock the folder itself: the file `lock` can be removed, and a new one locked beside the one in use."""
    try:
        _lock(folder.descriptor, folder.path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("state_folder_not_locked", folder=str(folder.path), reason=error.strerror)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StateBusyError(f"another daemon uses {path}: stop it, or set storage.directory") from None


def _check_entries(folder: Folder) -> None:
    """Refuse what is none of ours before anything is opened by a library that follows links, or waits for pipes."""
    for name in _FILES:
        status = folder.status(name)
        if status is not None and not (stat.S_ISREG(status.st_mode) and (name == KEYRING or status.st_nlink == 1)):
            raise OddFileError(
                folder.path / name, "is no plain file, or has a second name elsewhere (no link is followed here)"
            )
    for name in _FOLDERS:
        status = folder.status(name)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise OddFileError(folder.path / name, NO_FOLDER)


def give_up(state: StateFolder, into: str) -> tuple[str, ...]:
    """Move all that makes a history into a folder beside it; the names of what was moved. Nothing is deleted.

    The keyring stays, because what was moved cannot be read without it.

    Raises:
        OSError: something cannot be moved; what was moved before stays moved.
    """
    moved = []
    with Folder.at(state.path) as folder, folder.below(into, make=0o700) as aside:
        for name in (*_OF_DATABASES, SEALS, RELEASES, DATA):
            if folder.status(name) is not None:
                folder.move(name, aside)
                moved.append(name)
        aside.sync()
        folder.sync()
    return tuple(moved)
