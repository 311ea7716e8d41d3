"""A database that is empty, older or cut is not taken for the whole one."""

import contextlib
import os
import shutil
import sqlite3
from contextlib import asynccontextmanager

import msgspec
import pytest

from host.storage.database import Database
from host.storage.errors import HistoryLostError, KeyringError
from host.storage.history import History, Mark, needs_keyring
from host.storage.key_value_store import KeyValueStore
from host.storage.keyring import Keyring
from host.storage.state_folder import StateFolder

KEY = b"k" * 32


@asynccontextmanager
async def started(path, *, head=0, told=None, key=KEY, clean=True):
    """A start of the host on a state folder, up to where its history has begun; `head` is where its log ends."""

    async def tell(loss):
        (told if told is not None else []).append(loss)

    state = StateFolder.open(path)
    try:
        history = History.look(state, Keyring(key))
        database = await Database.open(path / "busbar.db")
        key_values = await KeyValueStore.open(path / "key-values.db")
        try:
            await history.begin(database, key_values, head, tell)
            yield history, database
            if clean:
                await history.end(head)
        finally:
            await key_values.close()
            await database.close()
    finally:
        state.close()


async def first_token(history, database):
    await database.write(
        lambda connection: connection.execute("INSERT INTO bootstrap (one, at) VALUES (1, 0)").rowcount
    )
    await history.note_token()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "var"


@pytest.fixture
async def lived(path):
    """The folder of a host that was started once, and stopped."""
    async with started(path, head=7) as (history, database):
        await first_token(history, database)
    return path


def killed(path, into, *, without=()):
    """What a host that is killed now leaves on the disk."""
    shutil.copytree(path, into, ignore=shutil.ignore_patterns(*without))
    return into


async def test_a_new_host_has_lost_nothing(path):
    async with started(path) as (history, _):
        assert history.losses == ()
        assert not history.token_made


async def test_a_host_that_is_stopped_and_started_has_lost_nothing(lived):
    for _ in range(2):
        async with started(lived, head=7) as (history, _):
            assert history.losses == ()
            assert history.token_made


async def test_a_host_that_is_killed_has_lost_nothing(path, tmp_path):
    async with started(path) as (history, database):
        await first_token(history, database)
        left = killed(path, tmp_path / "killed")
    async with started(left) as (history, _):
        assert history.losses == ()
        assert history.token_made


@pytest.mark.parametrize("how", ["gone", "empty"])
async def test_a_database_that_is_gone_or_empty_is_not_made_anew(lived, how):
    (lived / "busbar.db").unlink()
    if how == "empty":
        (lived / "busbar.db").touch()
    before = sorted(one.name for one in lived.iterdir())
    with pytest.raises(HistoryLostError, match="begin-anew"):
        async with started(lived):
            pass
    assert sorted(one.name for one in lived.iterdir()) == before


async def test_a_fresh_database_in_the_place_of_the_old_one_is_refused(lived, tmp_path):
    await (await Database.open(tmp_path / "fresh.db")).close()
    shutil.copy(tmp_path / "fresh.db", lived / "busbar.db")
    for _ in range(2):  # refusing it changes nothing about that
        with pytest.raises(HistoryLostError, match="holds nothing of it"):
            async with started(lived):
                pass


@pytest.mark.parametrize("left", ["seals", "releases", "data"])
async def test_each_thing_that_a_host_leaves_speaks_of_its_history(tmp_path, left):
    path = tmp_path / "var"
    (path / left / "one").mkdir(parents=True)
    with pytest.raises(HistoryLostError):
        async with started(path):
            pass


async def test_an_empty_database_is_refused_although_the_mark_is_gone_too(lived):
    (lived / "seals" / "history").unlink()
    (lived / "seals" / "registry").touch()
    (lived / "busbar.db").unlink()
    with pytest.raises(HistoryLostError):
        async with started(lived):
            pass


async def test_a_host_of_an_earlier_version_is_taken_up(path):
    path.mkdir()
    database = await Database.open(path / "busbar.db")
    await database.write(
        lambda connection: connection.execute("INSERT INTO bootstrap (one, at) VALUES (1, 0)").rowcount
    )
    await database.close()
    (path / "seals").mkdir()
    (path / "seals" / "registry").touch()
    async with started(path, head=3) as (history, _):
        assert history.losses == ()


async def test_an_older_copy_of_the_database_is_told_once(lived, tmp_path):
    old = shutil.copy(lived / "busbar.db", tmp_path / "old.db")
    async with started(lived, head=9):
        pass
    shutil.copy(old, lived / "busbar.db")
    told = []
    async with started(lived, head=7, told=told) as (history, _):
        assert [loss.certain for loss in history.losses] == [True, True]
        assert "1 starts of 2" in told[0].message
        assert "ends at 7, and had got to 9" in told[1].message
    async with started(lived, head=7) as (history, _):
        assert history.losses == ()


async def test_events_that_are_gone_are_counted_although_the_start_is_there(lived):
    async with started(lived, head=6) as (history, _):
        assert ["ends at 6, and had got to 7" in loss.message for loss in history.losses] == [True]


async def test_a_write_ahead_log_that_is_gone_after_a_kill_is_told(lived, tmp_path):
    async with started(lived, head=7) as (_, database):
        await database.write(
            lambda connection: (
                connection.execute("INSERT INTO cursors (subscription, position) VALUES ('p/s', 7)").rowcount
            )
        )
        left = killed(lived, tmp_path / "killed", without=["busbar.db-wal", "busbar.db-shm"])
    told = []
    async with started(left, head=7, told=told) as (history, _):
        assert told == list(history.losses)
        assert "write-ahead log" in told[0].message


async def test_a_write_ahead_log_whose_content_had_been_moved_leaves_a_doubt(lived, tmp_path):
    async with started(lived, head=7):
        with contextlib.closing(sqlite3.connect(lived / "busbar.db")) as other:
            assert other.execute("PRAGMA wal_checkpoint").fetchone()[0] == 0
        left = killed(lived, tmp_path / "killed", without=["busbar.db-wal", "busbar.db-shm"])
    async with started(left, head=7) as (history, _):
        assert [loss.certain for loss in history.losses] == [False]


async def test_a_loss_is_told_although_the_start_that_found_it_failed(lived, tmp_path):
    async with started(lived, head=7):
        left = killed(lived, tmp_path / "killed", without=["busbar.db-wal", "busbar.db-shm"])
    state = StateFolder.open(left)
    History.look(state, Keyring(KEY))
    state.close()
    async with started(left, head=7) as (history, _):
        assert history.losses


async def test_a_write_ahead_log_is_not_missed_after_a_start_that_failed_had_moved_it_in(lived, tmp_path):
    async with started(lived, head=7):
        left = killed(lived, tmp_path / "killed")
    state = StateFolder.open(left)
    History.look(state, Keyring(KEY))
    await (await Database.open(left / "busbar.db")).close()  # and no further
    state.close()
    assert not (left / "busbar.db-wal").exists()
    async with started(left, head=7) as (history, _):
        assert history.losses == ()


@pytest.mark.parametrize("how", ["gone", "older"])
async def test_keys_and_values_that_are_gone_or_older_than_the_host_are_told_once(lived, tmp_path, how):
    file = lived / "key-values.db"
    old = shutil.copy(file, tmp_path / "old.db")
    async with started(lived, head=7):
        pass
    file.unlink()
    if how == "older":
        shutil.copy(old, file)
    told = []
    async with started(lived, head=7, told=told) as (history, _):
        assert [loss.certain for loss in history.losses] == [True]
        assert f"they have had {1 if how == 'older' else 0} starts of 2" in told[0].message
    async with started(lived, head=7) as (history, _):
        assert history.losses == ()


async def test_a_host_whose_keys_and_values_had_no_file_of_their_own_misses_none(lived, tmp_path):
    mark = msgspec.json.decode(Keyring(KEY).open((lived / "seals" / "history").read_bytes(), "history"), type=Mark)
    before = msgspec.structs.replace(mark, key_values=False, clean=False)
    (lived / "seals" / "history").write_bytes(Keyring(KEY).seal(msgspec.json.encode(before).decode(), "history"))
    (lived / "key-values.db").unlink()
    (lived / "busbar.db-wal").write_bytes(b"of the host that was killed")
    async with started(lived, head=7) as (history, _):
        assert history.losses == ()


async def test_the_write_ahead_log_of_keys_and_values_that_is_gone_after_a_kill_is_told(lived, tmp_path):
    async with started(lived, head=7):
        left = killed(lived, tmp_path / "killed", without=["key-values.db-wal", "key-values.db-shm"])
    async with started(left, head=7) as (history, _):
        assert ["key-values.db" in loss.message for loss in history.losses] == [True]


@pytest.mark.parametrize("change", ["removed", "of another key", "a link", "a pipe"])
async def test_a_mark_that_cannot_be_read_is_told(lived, change, tmp_path):
    async with started(lived, head=7):
        pass
    mark = lived / "seals" / "history"
    mark.rename(tmp_path / "mark")
    match change:
        case "of another key":
            mark.write_bytes(Keyring(b"x" * 32).seal("{}", "history"))
        case "a link":
            mark.symlink_to(tmp_path / "mark")
        case "a pipe":
            os.mkfifo(mark)
    async with started(lived, head=7) as (history, _):
        assert [loss.certain for loss in history.losses] == [False]
        assert "nobody can tell" in history.losses[0].message


async def test_a_count_that_somebody_else_wrote_is_none(lived):
    database = await Database.open(lived / "busbar.db")
    await database.write(lambda connection: connection.execute("UPDATE seals SET serial = 99").rowcount)
    await database.close()
    async with started(lived, head=7) as (history, _):
        assert "0 starts of 1" in history.losses[0].message


async def test_a_disk_that_refuses_the_mark_does_not_keep_the_host_from_starting(lived, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(History, "_write", full)
    async with started(lived, head=7) as (history, _):
        assert history.losses == ()


async def test_a_key_is_not_made_anew_beside_what_was_written_under_it(lived, tmp_path):
    state = StateFolder.open(lived)
    assert needs_keyring(state)
    with pytest.raises(KeyringError, match="is gone"):
        Keyring.load(lived / "keyring", environ={}, make=False)
    assert not (lived / "keyring").exists()
    state.close()
    state = StateFolder.open(tmp_path / "new")
    assert not needs_keyring(state)
    state.close()


async def test_a_folder_of_seals_that_is_swapped_for_a_link_while_it_runs_ends_nothing(lived, tmp_path):
    async with started(lived, head=7) as (history, _):
        (lived / "seals").rename(tmp_path / "seals")
        (lived / "seals").symlink_to(tmp_path / "seals")
        before = (tmp_path / "seals" / "history").read_bytes()
        await history.end(9)
        assert (tmp_path / "seals" / "history").read_bytes() == before
        (lived / "seals").unlink()
        (tmp_path / "seals").rename(lived / "seals")
