"""What the host remembers of its database outside of it: an empty, older or cut database does not pass for whole.

A **mark**, sealed with the host's key, in a file beside the serials of the seals: how often this host was started, how
far its event log had got, whether it was stopped cleanly. The count of starts is in the database too. A host with a
history does not start on a database without one: it would take every release for an orphan, and hand out a new
administrator's token. What was lost otherwise is said, and the host goes on with what there is.

The mark is written at the start, at the end, and at most once a second in between, never for each commit. So what is
certain is a loss of what is older than a second; of the last second the missing write-ahead log alone tells.

The keys and values of plugins, in a file of their own, count the starts as well: that file, too, may be an older copy.
"""

from __future__ import annotations

import asyncio
import hmac
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from host.storage.beneath import Folder
from host.storage.database import Database
from host.storage.errors import HistoryLostError, KeyringError, OddFileError, StorageFailedError, unreadable
from host.storage.key_value_store import KeyValueStore
from host.storage.keyring import Keyring
from host.storage.state_folder import (
    DATA,
    DATABASE,
    KEY_VALUES,
    KEY_VALUES_AHEAD,
    LOG_AHEAD,
    RELEASES,
    SEALS,
    StateFolder,
)
from plugin_sdk.worker.file_errors import is_of_the_file

NAME: Final = "history"
"""The mark's file among the seals, and the row of the database's own count."""
MARK_SECONDS: Final = 1.0
"""How far behind the log the mark may be; each mark costs two small syncs."""
MAX_MARK: Final = 4096
"""Bytes of the file; a mark has some 100."""
_CONTEXT: Final = "history"
_COUNT: Final = "SELECT serial, mac FROM seals WHERE name = ?"
_STAMP: Final = "INSERT OR REPLACE INTO seals (name, serial, mac) VALUES (?, ?, ?)"
_BOOTSTRAPPED: Final = "SELECT 1 FROM bootstrap"

_NO_LOG_AHEAD: Final = (
    "the write-ahead log {} is gone, although the host was not stopped: what it acknowledged in its last "
    "moments may be lost, unless another program opened the database meanwhile, and so moved the log into it, or the "
    "host could not note that it was stopped (a full disk)"
)

_log = structlog.get_logger(__name__)


class Mark(msgspec.Struct, frozen=True):
    """What is remembered. `told` has the losses that were found and are not in the audit trail yet.

    `key_values` is whether the keys and values had a file of their own by then.
    """

    starts: int = 0
    head: int = 0
    clean: bool = True
    token_made: bool = False
    told: tuple[str, ...] = ()
    key_values: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that the database once held, or may have held, and holds no more."""

    message: str
    certain: bool


class History:
    """The history of one state folder. Make it with `look`, before the database is opened.

    Attributes:
        losses: What was found at this start.
        missing: Files that were taken away while the host runs.
    """

    def __init__(
        self, state: StateFolder, keyring: Keyring, mark: Mark | None, *, known: bool, ahead: frozenset[str]
    ) -> None:
        self._state = state
        self._keyring = keyring
        self._found = mark
        self._known = known
        self._ahead = ahead
        self._mark = mark or Mark()
        self.losses: tuple[Loss, ...] = ()
        self.missing: tuple[str, ...] = ()

    @classmethod
    def look(cls, state: StateFolder, keyring: Keyring) -> History:
        """Read the mark, and see whether there is a database where there was one; blocks.

        Raises:
            HistoryLostError: the database is gone or empty, and this host has a history.
            StorageFailedError: the machine refuses to say.
        """
        try:
            with Folder.at(state.path) as folder:
                mark = _read(folder, keyring)
                known = mark is not None or has_history(state)
                if not _size(folder, DATABASE) and known:
                    raise _lost(state.path / DATABASE, "is gone, or empty")
                ahead = frozenset(name for name in (LOG_AHEAD, KEY_VALUES_AHEAD) if _size(folder, name) > 0)
                history = cls(state, keyring, mark, known=known, ahead=ahead)
        except OSError as error:
            raise unreadable(f"the state folder {state.path}", error) from error
        history._settle()
        return history

    @property
    def token_made(self) -> bool:
        """Whether the first administrator's token was ever made, whatever the database says."""
        return self._mark.token_made

    async def begin(
        self, database: Database, key_values: KeyValueStore, head: int, tell: Callable[[Loss], Awaitable[None]]
    ) -> None:
        """Hold the databases against the mark, tell what was lost, and count this start.

        Args:
            database: The database, which nobody else has written yet.
            key_values: The keys and values of plugins.
            head: Where the database's event log ends.
            tell: Has a loss written down for good.

        Raises:
            HistoryLostError: it holds nothing, and the host has a history.
        """
        count = await database.write(self._count)
        kept = await key_values.starts()
        self.losses = tuple(self._compare(count, kept, head))
        starts = max(count, self._mark.starts) + 1
        try:
            for loss in self.losses:
                _log.error("history_lost" if loss.certain else "history_in_doubt", reason=loss.message)
                await tell(loss)
            await database.write(lambda connection: self._stamp(connection, starts))
            await key_values.count_start(starts)
        except StorageFailedError as error:
            # A full disk does not keep the host from starting. The mark stays, and tells the same the next time.
            _log.warning("start_not_counted", reason=error.message)
            return
        await asyncio.to_thread(self._state.watch_databases)
        await self._keep(Mark(starts, head, clean=False, token_made=self._mark.token_made, key_values=True))

    async def note_token(self) -> None:
        """Remember that the first administrator's token was made."""
        if not self._mark.token_made:
            await self._keep(msgspec.structs.replace(self._mark, token_made=True))

    async def run(self, head: Callable[[], int]) -> None:
        """Remember how far the log has got, and see that the files in use stay where they are; for ever."""
        while True:
            await asyncio.sleep(MARK_SECONDS)
            if (reached := head()) != self._mark.head:
                await self._keep(msgspec.structs.replace(self._mark, head=reached))
            await self._see()

    async def end(self, head: int) -> None:
        """Remember a clean stop: the log ends here, and all that is written is moved into the database next."""
        await self._keep(msgspec.structs.replace(self._mark, head=head, clean=True))

    # -- inside

    def _settle(self) -> None:
        """Note what the write-ahead log told before the database is opened, which moves it in and removes it.

        A host that is killed, or fails, between here and its own mark would else miss a log that nobody took.
        """
        if self._found is None or self._found.clean:
            return
        needed = (LOG_AHEAD, KEY_VALUES_AHEAD) if self._found.key_values else (LOG_AHEAD,)
        told = (*self._found.told, *(_NO_LOG_AHEAD.format(name) for name in needed if name not in self._ahead))
        self._mark = msgspec.structs.replace(self._found, clean=True, told=told)
        try:
            self._write(self._mark)
        except (OSError, OddFileError) as error:
            _log.warning("history_not_marked", reason=str(error))

    def _count(self, connection: sqlite3.Connection) -> int:
        """How often this host was started on the database, by its own count; 0 where it has none that holds.

        Raises:
            HistoryLostError: the host has a history, and the database nothing of it.
        """
        row = connection.execute(_COUNT, (NAME,)).fetchone()
        if row is not None and hmac.compare_digest(bytes(row[1]), self._mac(int(row[0]))):
            return int(row[0])
        # Rows without the count are those of a host of an earlier version, or somebody took it away: the seals tell.
        if self._known and connection.execute(_BOOTSTRAPPED).fetchone() is None:
            raise _lost(self._state.path / DATABASE, "holds nothing of it")
        return 0

    def _compare(self, count: int, kept: int, head: int) -> list[Loss]:
        mark = self._mark
        found = []
        if self._found is None and count > 1:
            sentence = f"{SEALS}/{NAME} is gone or unreadable, so nobody can tell whether the database is whole"
            found.append(Loss(sentence, certain=False))
        if count < mark.starts:
            found.append(
                Loss(
                    f"the database is an older copy, or its write-ahead log was lost: it has had {count} starts "
                    f"of {mark.starts}",
                    certain=True,
                )
            )
        if head < mark.head:
            found.append(
                Loss(
                    f"events that were acknowledged are lost: the log ends at {head}, and had got to {mark.head}",
                    certain=True,
                )
            )
        if mark.key_values and kept < mark.starts:
            found.append(
                Loss(
                    f"the keys and values of plugins ({KEY_VALUES}) are gone or an older copy: they have had {kept} "
                    f"starts of {mark.starts}",
                    certain=True,
                )
            )
        return found or [Loss(sentence, certain=False) for sentence in mark.told]

    def _stamp(self, connection: sqlite3.Connection, starts: int) -> None:
        connection.execute(_STAMP, (NAME, starts, self._mac(starts)))

    def _mac(self, starts: int) -> bytes:
        return self._keyring.mac(b"%d" % starts, _CONTEXT)

    async def _see(self) -> None:
        try:
            missing = await asyncio.to_thread(self._state.missing)
        except OSError as error:  # a disk that fails: the next look may do
            _log.warning("state_folder_not_looked_at", reason=str(error))
            return
        for name in missing:
            if name not in self.missing:
                _log.error("state_file_taken_away", file=name, folder=str(self._state.path))
        self.missing = missing

    async def _keep(self, mark: Mark) -> None:
        """Write the mark; where the disk refuses it, the one before stays, which tells less and nothing wrong."""
        try:
            await asyncio.to_thread(self._write, mark)
        except (OSError, OddFileError) as error:
            _log.warning("history_not_marked", reason=str(error))
        self._mark = mark

    def _write(self, mark: Mark) -> None:
        with Folder.at(self._state.path) as folder, folder.below(SEALS, make=0o700) as seals:
            seals.replace(NAME, self._keyring.seal(msgspec.json.encode(mark).decode(), _CONTEXT))


def has_history(state: StateFolder) -> bool:
    """Whether a host has kept something in this folder before, whatever its database says; blocks.

    Raises:
        OSError: the machine refuses to say.
    """
    with Folder.at(state.path) as folder:
        for name in (SEALS, RELEASES, DATA):
            if folder.status(name) is not None:
                with folder.below(name) as inner:
                    if any(not one.startswith(".") for one in inner.names()):
                        return True
    return False


def needs_keyring(state: StateFolder) -> bool:
    """Whether there is something here that was written under a key, so that a new key would not do; blocks.

    Raises:
        StorageFailedError: the machine refuses to say.
    """
    try:
        with Folder.at(state.path) as folder:
            return _size(folder, DATABASE) > 0 or has_history(state)
    except OSError as error:
        raise unreadable(f"the state folder {state.path}", error) from error


def _read(folder: Folder, keyring: Keyring) -> Mark | None:
    """The mark in the file; None where there is none, or it was written by someone else."""
    if folder.status(SEALS) is None:
        return None
    with folder.below(SEALS) as seals:
        try:
            sealed = seals.read(NAME, MAX_MARK)
            return msgspec.json.decode(keyring.open(sealed, _CONTEXT), type=Mark)
        except OSError as error:
            if is_of_the_file(error):
                return None
            raise
        except (OddFileError, KeyringError, msgspec.MsgspecError) as error:
            _log.error("history_unreadable", reason=str(error))
            return None


def _size(folder: Folder, name: str) -> int:
    status = folder.status(name)
    return 0 if status is None else status.st_size


def _lost(path: Path, why: str) -> HistoryLostError:
    return HistoryLostError(
        f"{path} {why}, but this host has a history (seals/, releases/, data/): put back the database, the keyring and "
        "seals/ that belong together, from your backup; or, to give up every event, plugin and token that it held, run "
        "'busbar state begin-anew' and start again. Nothing was changed"
    )
