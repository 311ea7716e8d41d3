"""An SQLite file of the host's: opened, migrated, read through a few connections, written through the writer."""

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

from host.storage.errors import SchemaError, StorageBusyError, StorageFailedError, is_machine_failure
from host.storage.writer import Writer
from plugin_sdk.clock import Clock, SystemClock

T = TypeVar("T")

MIGRATIONS: Final = "migrations"
"""Of `busbar.db`, in their folder."""
READERS: Final = 2
"""Connections that read; one slow query does not stop the others."""
READ_WAIT_SECONDS: Final = 30.0
"""How long a query waits for a connection while slower ones hold them all."""
PAGE_CACHE_KIB: Final = 16384
CHECKPOINT_PAGES: Final = 8000
"""Pages of the write-ahead log (4 KiB each) at which a commit moves them into the database itself.

More would save writes where events touch many pages, and make the commit that moves them pause longer.
"""

PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # an acknowledged event survives power loss, not only a crash
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",
    f"PRAGMA cache_size = -{PAGE_CACHE_KIB}",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    "PRAGMA journal_size_limit = 67108864",  # a log that once grew gives its disk back
    "PRAGMA temp_store = MEMORY",
)
_APPLIED: Final = (
    "CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, applied_at REAL NOT NULL) STRICT"
)
_NUMBERED: Final = re.compile(r"(\d{4})_\w+\.sql")


class Database:
    """Reads and writes of one database file. Make it with `open`."""

    def __init__(self, path: Path, writer: Writer, readers: list[aiosqlite.Connection]) -> None:
        self.path = path
        self.writer = writer
        self._readers = readers
        self._free: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        for reader in readers:
            self._free.put_nowait(reader)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock | None = None, migrations: str = MIGRATIONS) -> Database:
        """Open or create the file, readable by its owner alone, and bring its schema up to date.

        `migrations` is the folder, beside this module, of its numbered migrations.

        Raises:
            SchemaError: a newer host wrote it, or a migration failed; that migration left no trace.
            StorageFailedError: it cannot be opened, or is no database.
        """
        now = (clock or SystemClock()).now().timestamp()
        await asyncio.to_thread(_migrate, path, migrations, now)
        writer = Writer(lambda: _connect(path))
        readers: list[aiosqlite.Connection] = []
        try:
            await writer.start()
            for _ in range(READERS):
                reader = await _reader(path)
                readers.append(reader)
        except BaseException as error:  # what was opened is closed; raised again
            await cls(path, writer, readers).close()
            if isinstance(error, sqlite3.Error):  # too few descriptors for a second connection, no memory
                raise StorageFailedError(f"the database {path} cannot be opened: {error}") from error
            raise
        return cls(path, writer, readers)

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
        """Run an operation in the writer's next transaction; durable when it returns.

        `weight` is what it keeps in memory until then, in bytes; errors as in `Writer.run`.
        """
        return await self.writer.run(operation, weight=weight)

    async def close(self) -> None:
        """Write what waits and close every connection; closing again does nothing."""
        # Readers first: only then can the writer empty the write-ahead log.
        readers, self._readers = self._readers, []
        for reader in readers:
            await reader.close()
        await self.writer.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    connection.row_factory = sqlite3.Row
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection


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
        with contextlib.closing(_connect(path)) as connection:
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
