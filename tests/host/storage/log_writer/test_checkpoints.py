"""Pages are moved beside the writing, so a log that is written without a pause stays small."""

import contextlib

import pytest

from host.storage.connection import checkpoint, connect
from host.storage.log_writer import checkpoints
from host.storage.log_writer.checkpoints import Checkpoints

PAGE = 4096


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "busbar.db"
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, body BLOB)")
        yield path, connection


def test_a_log_that_is_written_without_a_pause_begins_anew_now_and_then(database, monkeypatch):
    monkeypatch.setattr(checkpoints, "ANEW_PAGES", 200)
    path, connection = database
    told, largest = [], 0
    with contextlib.closing(Checkpoints(lambda: connect(path), told.append)) as beside:
        for number in range(4000):
            connection.execute("INSERT INTO rows VALUES (?, zeroblob(1000))", (number,))
            if beside.large:
                checkpoint(connection, may_wait=True)
            elif number % 20 == 0:
                beside.ask()
            largest = max(largest, path.with_name("busbar.db-wal").stat().st_size)
    assert told == []
    assert largest < 3000 * PAGE
    assert connection.execute("SELECT count(*) FROM rows").fetchone()[0] == 4000
    (busy, left, moved) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert (busy, left) == (0, moved)


def test_where_no_connection_can_be_had_that_is_told_and_the_writing_goes_on(database):
    path, connection = database
    told = []
    beside = Checkpoints(lambda: connect(path / "no folder"), told.append)
    beside.ask()
    connection.execute("INSERT INTO rows VALUES (1, zeroblob(10))")
    beside.close()
    assert len(told) == 1
    assert told[0].startswith("no checkpoints beside the writing")
