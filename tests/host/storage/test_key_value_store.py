"""Keys and values have a file of their own: nothing of the log waits for them, and what was kept before moves over."""

import asyncio
import contextlib
import sqlite3
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host.storage.database import Database
from host.storage.errors import QuotaUsedUpError
from host.storage.key_value_store import KeyValueStore

QUOTA = 10_000


@pytest.fixture
async def store(tmp_path):
    one = await KeyValueStore.open(tmp_path / "key-values.db", quota=QUOTA)
    yield one
    await one.close()


async def put_old(database, rows):
    """Have keys and values in `busbar.db`, as a host of an earlier version kept them."""

    def fill(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO kv (plugin, key, value) VALUES (?, ?, ?)", rows)
        connection.execute("INSERT INTO kv_usage SELECT plugin, sum(length(value)) FROM kv GROUP BY plugin")

    await database.write(fill)


async def kept(store, plugins="pq"):
    return {
        (plugin, key): await store.get(plugin, key)
        for plugin in plugins
        for key in await store.keys(plugin, "", "", 9999)
    }


async def test_what_was_set_is_there_at_the_next_start(store, tmp_path):
    await store.set("p", "key", b"value")
    await store.close()
    again = await KeyValueStore.open(tmp_path / "key-values.db")
    assert await again.get("p", "key") == b"value"
    await again.close()


async def test_the_file_is_its_owners_alone(store, tmp_path):
    await store.set("p", "key", b"value")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("key-values.db*")} == {0o600}


async def test_a_key_is_durable_while_the_event_logs_writer_is_busy(store, database):
    busy, go_on = threading.Event(), threading.Event()

    def dawdle(_connection: sqlite3.Connection) -> None:
        busy.set()
        go_on.wait(30)

    writing = asyncio.create_task(database.write(dawdle))
    await asyncio.to_thread(busy.wait, 30)
    await store.set("p", "key", b"value")
    assert await store.get("p", "key") == b"value"
    assert not writing.done()
    go_on.set()
    await writing


async def test_a_read_does_not_wait_for_a_write_that_is_under_way(store):
    await store.set("p", "key", b"before")
    busy, go_on = threading.Event(), threading.Event()

    def dawdle(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE kv SET value = x'00'")
        busy.set()
        go_on.wait(30)

    writing = asyncio.create_task(store._database.write(dawdle))
    await asyncio.to_thread(busy.wait, 30)
    assert await store.get("p", "key") == b"before"
    assert await store.keys("p", "", "", 9) == ["key"]
    go_on.set()
    await writing


async def test_many_at_once_are_all_kept_within_the_quota_of_each(store):
    found = await asyncio.gather(
        *(store.set(plugin, f"{number:03}", bytes(197)) for number in range(60) for plugin in "pq"),
        return_exceptions=True,
    )
    assert sum(one is None for one in found) == 100
    assert {type(one) for one in found if one is not None} == {QuotaUsedUpError}
    assert len(await kept(store)) == 100


async def test_a_purge_of_more_than_one_step_removes_all_and_nothing_else(store, monkeypatch):
    monkeypatch.setattr("host.storage.key_value_store.PURGED_BYTES", 500)
    for number in range(40):
        await store.set("p", str(number), bytes(200))
    await store.set("q", "key", b"")
    await store.purge("p")
    assert await kept(store) == {("q", "key"): b""}
    await store.set("p", "key", bytes(QUOTA - 3))


async def test_what_busbar_db_held_moves_over_with_its_quota(store, database):
    old = {("p", f"{number:04}"): bytes(number % 90) for number in range(600)} | {("q", "key"): b"value"}
    await put_old(database, [(*where, value) for where, value in old.items()])
    await store.take_over(database)
    assert await kept(store) == old
    assert await database.read("SELECT * FROM kv UNION ALL SELECT *, 0 FROM kv_usage") == []
    with pytest.raises(QuotaUsedUpError):
        await store.set("p", "more", b"")
    await store.set("q", "more", bytes(QUOTA - 12))


async def test_once_moved_nothing_old_comes_back(store, database):
    await put_old(database, [("p", "key", b"old")])
    await store.take_over(database)
    await store.set("p", "key", b"new")
    await store.take_over(database)
    assert await store.get("p", "key") == b"new"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(
        st.tuples(st.sampled_from("pq"), st.text("ab", min_size=1, max_size=3)), st.binary(max_size=40), max_size=12
    ),
    steps=st.integers(0, 12),
    page=st.integers(1, 4),
)
async def test_a_move_that_a_kill_cut_short_anywhere_is_done_at_the_next_start(tmp_path_factory, rows, steps, page):
    """Given any keys and a kill after any number of steps, then the next start has all of them, and once."""
    folder = tmp_path_factory.mktemp("move")
    database = await Database.open(folder / "busbar.db")
    await put_old(database, [(*where, value) for where, value in rows.items()])

    class KilledError(Exception):
        pass

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("host.storage.key_value_store.TAKEN_KEYS", page)
        store = await KeyValueStore.open(folder / "key-values.db")
        writes = 0
        for one in (store._database, database):
            write = one.write

            async def until_killed(operation, *, weight=0, write=write):
                nonlocal writes
                if writes == steps:
                    raise KilledError
                writes += 1
                return await write(operation, weight=weight)

            patched.setattr(one, "write", until_killed)
        with contextlib.suppress(KilledError):
            await store.take_over(database)
        await store.close()
    store = await KeyValueStore.open(folder / "key-values.db")
    await store.take_over(database)
    assert await kept(store) == rows
    used = {
        plugin: sum(len(key) + len(value) for (owner, key), value in rows.items() if owner == plugin) for plugin in "pq"
    }
    assert dict(map(tuple, await store._database.read("SELECT * FROM kv_usage"))) == {
        plugin: size for plugin, size in used.items() if size
    }
    await store.close()
    await database.close()
