import asyncio
import sqlite3
import threading

import pytest
from short_of_descriptors import descriptors_left

from host.storage import database as storage
from host.storage.database import Database
from host.storage.errors import SchemaError, StorageBusyError, StorageFailedError


def rows(path, sql):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def test_a_new_database_has_every_migration_and_strict_tables(database):
    applied = {row[0] for row in await database.read("SELECT number FROM schema_migrations")}
    assert {1, 2} <= applied
    loose = await database.read(
        "SELECT name FROM pragma_table_list WHERE NOT strict AND schema = 'main' AND name NOT LIKE 'sqlite%'"
    )
    assert [row["name"] for row in loose] == []


async def test_a_read_sees_every_write_answered_before(database):
    await database.write(
        lambda connection: connection.execute("INSERT INTO cursors (subscription, position) VALUES ('p/s', 7)").rowcount
    )
    assert [row["position"] for row in await database.read("SELECT position FROM cursors")] == [7]


async def test_a_reader_cannot_write(database):
    with pytest.raises(StorageFailedError, match="readonly"):
        await database.read("INSERT INTO cursors (subscription, position) VALUES ('p/s', 7)")


async def test_a_commit_is_flushed_to_the_disk_before_it_is_answered(database):
    assert await database.write(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]) == 2
    assert await database.write(lambda connection: connection.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"


async def test_only_its_owner_may_read_the_file(database):
    assert database.path.stat().st_mode & 0o077 == 0


async def test_opening_again_keeps_what_is_there(tmp_path):
    for _ in range(2):
        opened = await Database.open(tmp_path / "busbar.db")
        await opened.write(
            lambda connection: (
                connection.execute("INSERT OR IGNORE INTO cursors (subscription, position) VALUES ('p/s', 7)").rowcount
            )
        )
        assert len(await opened.read("SELECT * FROM cursors")) == 1
        await opened.close()


async def test_closing_leaves_no_write_ahead_log_behind_and_can_be_done_twice(database):
    await database.write(
        lambda connection: connection.execute("INSERT INTO cursors (subscription, position) VALUES ('p/s', 7)").rowcount
    )
    await database.close()
    await database.close()
    assert not database.path.with_name("busbar.db-wal").exists()


async def test_a_database_of_a_newer_host_is_refused_and_untouched(tmp_path):
    path = tmp_path / "busbar.db"
    await (await Database.open(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO schema_migrations VALUES (9999, 0)")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaError, match="newer Busbar"):
        await Database.open(path)


async def test_a_migration_that_fails_is_undone_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "busbar.db"
    broken = "CREATE TABLE first (a INTEGER) STRICT; CREATE TABLE second (a NOTATYPE) STRICT;"
    monkeypatch.setattr(storage, "_scripts", lambda _folder: {1: broken})
    with pytest.raises(SchemaError, match=r"migration 1 .* undone"):
        await Database.open(path)
    assert rows(path, "SELECT name FROM sqlite_schema WHERE name IN ('first', 'second')") == []
    monkeypatch.undo()
    await (await Database.open(path)).close()


async def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "busbar.db"
    path.write_bytes(b"This is a letter, not a database. " * 100)
    with pytest.raises(StorageFailedError, match="cannot be opened"):
        await Database.open(path)


async def test_queries_run_beside_each_other_and_one_too_many_waits_its_time(database, monkeypatch):
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000) SELECT max(i) FROM n"
    running = [asyncio.ensure_future(database.read(slow)) for _ in range(storage.READERS)]
    await asyncio.sleep(0)
    monkeypatch.setattr(storage, "READ_WAIT_SECONDS", 0.01)
    with pytest.raises(StorageBusyError):
        await database.read("SELECT 1")
    await asyncio.gather(*running)
    assert len(await database.read("SELECT 1")) == 1


async def test_a_cancelled_query_gives_its_connection_back(database):
    for _ in range(storage.READERS * 2):
        task = asyncio.ensure_future(database.read("SELECT 1"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(await database.read("SELECT 1")) == 1


def of_connections():
    """The threads that run, but for those of the loop's pool."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


async def test_too_few_descriptors_are_told_as_such_wherever_they_end(tmp_path):
    path = tmp_path / "busbar.db"
    await (await Database.open(path)).close()
    outcomes, before = set(), of_connections()
    for left in range(20):
        with descriptors_left(left):
            try:
                opened = await Database.open(path)
            except StorageFailedError as error:
                assert "cannot be opened" in error.message  # noqa: PT017 - which error it is hangs on the number
                outcomes.add("refused")
            else:
                outcomes.add("opened")
                await opened.close()
    assert outcomes == {"refused", "opened"}
    for thread in of_connections() - before:  # one that is left would keep the process from ending
        await asyncio.to_thread(thread.join, 5)
    assert of_connections() <= before
