"""An SQLite file of the host's: opened, migrated, read through a few connections, written by writers that take turns.

In the file of the event log, what events wait for goes through `log`; all else is an operation that `write` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite

from host.storage.connection import PRAGMAS, connect
from host.storage.errors import SchemaError, StorageBusyError, StorageFailedError, is_machine_failure
from host.storage.log_writer.links import Link, thread_link
from host.storage.log_writer.writer import LogWriter
from host.storage.turns import Turns
from host.storage.writer import Writer
from plugin_sdk.clock import Clock, SystemClock

T = TypeVar("T")

MIGRATIONS: Final = "migrations"
"""Of `busbar.db`, in their folder."""
READERS: Final = 2
"""Connections that read; one slow query does not stop the others."""
READ_WAIT_SECONDS: Final = 30.0
"""How long a query waits for a connection while slower ones hold them all."""
_APPLIED: Final = (
    "CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, applied_at REAL NOT NULL) STRICT"
)
_NUMBERED: Final = re.compile(r"(\d{4})_\w+\.sql")


class Database:
    """Reads and writes of one database file. Make it with `open`.

    Attributes:
        path: Where it is.
        writer: Writes all but the log.
    """

    def __init__(self, path: Path, log: LogWriter | None, writer: Writer, readers: list[aiosqlite.Connection]) -> None:
        self.path = path
        self._log = log
        self.writer = writer
        self._readers = readers
        self._free: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        for reader in readers:
            self._free.put_nowait(reader)

    @property
    def log(self) -> LogWriter:
        """Writes the event log, in the file that has it."""
        if self._log is None:
            raise LookupError(f"there is no event log in {self.path}")
        return self._log

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock | None = None,
        link: Link | None = None,
        migrations: str = MIGRATIONS,
        logged: bool = True,
    ) -> Database:
        """Open or create the file, readable by its owner alone, and bring its schema up to date.

        Args:
            path: Where it is.
            clock: For what is noted of migrations.
            link: Leads to the core that writes the log; by default one in a thread of this process.
            migrations: The folder, beside this module, of its numbered migrations.
            logged: Whether the event log is in it.

        Raises:
            SchemaError: a newer host wrote it, or a migration failed; that migration left no trace.
            StateBusyError: another process writes the log.
            StorageFailedError: it cannot be opened, or is no database.
            LogWriterError: the core cannot be started.
        """
        link = link or thread_link(path)
        now = (clock or SystemClock()).now().timestamp()
        if logged:
            await link.start()  # before anything is written here: nobody else does from now on
        readers: list[aiosqlite.Connection] = []
        turns = Turns()
        log = LogWriter(link, turns) if logged else None
        writer = Writer(lambda: connect(path), turns)
        try:
            await asyncio.to_thread(_migrate, path, migrations, now)
            await writer.start()
            if log is not None:
                await log.start()
            for _ in range(READERS):
                reader = await _reader(path)
                readers.append(reader)
        except BaseException as error:  # what was opened is closed; raised again
            await cls(path, log, writer, readers).close()
            if isinstance(error, sqlite3.Error):  # too few descriptors for a second connection, no memory
                raise StorageFailedError(f"the database {path} cannot be opened: {error}") from error
            raise
        return cls(path, log, writer, readers)

    async def read(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query, by place or by name; it sees every write that was answered before it began.

        Raises:
            StorageBusyError: slower queries held every connection for too long.
            StorageFailedError: the disk failed.
        """
        try:
            async with asyncio.timeout(READ_WAIT_SECONDS):
                reader = await self._free.get()
        except TimeoutError as error:
            raise StorageBusyError("the database is busy: try again in a moment", retry_after=1.0) from error
        try:
            values = dict(parameters) if isinstance(parameters, Mapping) else tuple(parameters)
            return list(await reader.execute_fetchall(sql, values))
        except sqlite3.Error as error:
            if is_machine_failure(error):
                raise StorageFailedError(f"the database could not be read ({error}): check the disk") from error
            raise
        finally:
            self._free.put_nowait(reader)

    async def write(self, operation: Callable[[sqlite3.Connection], T], *, weight: int = 0) -> T:
        """Run an operation in one of the writer's next transactions; durable when it returns.

        `weight` is what it keeps in memory until then, in bytes; errors as in `Writer.run`. Events wait while it runs:
        what takes long is cut into pieces.
        """
        return await self.writer.run(operation, weight=weight)

    async def close(self) -> None:
        """Write what waits and close every connection; closing again does nothing."""
        # Readers first: only then can the writer empty the write-ahead log.
        readers, self._readers = self._readers, []
        for reader in readers:
            await reader.close()
        if self._log is not None:
            await self._log.close()
        await self.writer.close()


async def _reader(path: Path) -> aiosqlite.Connection:
    reader = await aiosqlite.connect(path, isolation_level=None)
    try:
        reader.row_factory = sqlite3.Row
        for pragma in (*PRAGMAS, "PRAGMA query_only = ON"):
            await reader.execute(pragma)
    except BaseException:  # its thread would keep the process from ending; raised again
        await reader.close()
        raise
    return reader


def _migrate(path: Path, migrations: str, now: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made here, because SQLite would let the process's umask decide who may read it.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
        scripts = _scripts(migrations)
        with contextlib.closing(connect(path)) as connection:
            _apply_all(connection, path, scripts, now)
    except (OSError, sqlite3.Error) as error:
        raise StorageFailedError(f"the database {path} cannot be opened: {error}") from error


def _apply_all(connection: sqlite3.Connection, path: Path, scripts: dict[int, str], now: float) -> None:
    connection.execute(_APPLIED)
    applied = {row[0] for row in connection.execute("SELECT number FROM schema_migrations")}
    unknown = applied - scripts.keys()
    if unknown:
        raise SchemaError(
            f"{path} was written by a newer Busbar (schema {max(unknown)}): run that version, or restore a backup"
        )
    for number in sorted(scripts.keys() - applied):
        _apply(connection, path, number, scripts[number], now)


def _apply(connection: sqlite3.Connection, path: Path, number: int, script: str, now: float) -> None:
    record = f"INSERT INTO schema_migrations (number, applied_at) VALUES ({number}, {now})"
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n{record};\nCOMMIT;")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if is_machine_failure(error):
            raise  # a full disk says nothing of the migration
        raise SchemaError(f"migration {number} of {path} failed and was undone: {error}") from error


def _scripts(migrations: str) -> dict[int, str]:
    """The numbered migrations of a folder, by number."""
    found: dict[int, str] = {}
    for file in (resources.files("host.storage") / migrations).iterdir():
        match = _NUMBERED.fullmatch(file.name)
        if match:
            found[int(match[1])] = file.read_text(encoding="utf-8")
    return found
