import asyncio
import sqlite3
import threading

import pytest

from host.storage import connection
from host.storage import writer as writing
from host.storage.errors import RowRefusedError, StorageBusyError, StorageFailedError
from host.storage.turns import Turns
from host.storage.writer import Writer


def note(text):
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?)", (text,)).rowcount


def notes(connection):
    return sorted(row[0] for row in connection.execute("SELECT text FROM notes"))


async def test_an_operation_answers_what_it_returns(writer):
    assert await writer.run(note("a")) == 1
    assert await writer.run(notes) == ["a"]


async def transactions(writer, count):
    """Run so many operations at once; which transaction each of them was in."""
    return await asyncio.gather(
        *(writer.run(lambda _: writer.statements.count("BEGIN IMMEDIATE")) for _ in range(count))
    )


async def test_operations_of_one_turn_share_a_transaction_and_what_comes_meanwhile_the_next(writer):
    first = asyncio.ensure_future(transactions(writer, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await transactions(writer, 50) == [2] * 50
    assert await first == [1]


async def test_a_transaction_has_so_many_operations_and_no_more(writer, monkeypatch):
    monkeypatch.setattr(writing, "TURN_OPERATIONS", 10)
    assert await transactions(writer, 25) == [1] * 10 + [2] * 10 + [3] * 5


async def test_another_party_has_its_turn_between_two_transactions(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "TURN_OPERATIONS", 1)
    turns = Turns()
    writer = Writer(lambda: sqlite3.connect(tmp_path / "turns.db", isolation_level=None), turns)
    await writer.start()
    order = []

    class Other:
        def go(self):
            order.append("other")
            turns.give(self)

    async def write(number):
        await writer.run(lambda _: None)
        order.append(number)

    tasks = [asyncio.create_task(write(number)) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not turns.take(Other())
    await asyncio.gather(*tasks)
    await writer.close()
    assert order.index("other") < order.index(1)


async def test_an_operation_that_raises_fails_alone_and_leaves_no_trace(writer):
    def half(connection):
        note("half")(connection)
        raise LookupError("on purpose")

    answers = await asyncio.gather(
        writer.run(note("a")), writer.run(half), writer.run(note("b")), return_exceptions=True
    )
    assert isinstance(answers[1], LookupError)
    assert await writer.run(notes) == ["a", "b"]


async def test_a_broken_constraint_fails_alone(writer):
    answers = await asyncio.gather(writer.run(note("a")), writer.run(note("a")), return_exceptions=True)
    assert isinstance(answers[1], sqlite3.IntegrityError)
    assert await writer.run(notes) == ["a"]


async def test_a_full_disk_fails_the_whole_batch_and_the_writer_goes_on(writer):
    big = "x" * 2_000_000
    answers = await asyncio.gather(writer.run(note("small")), writer.run(note(big)), return_exceptions=True)
    assert all(isinstance(answer, StorageFailedError) for answer in answers)
    assert answers[0].retry_after is not None
    assert await writer.run(note("after")) == 1
    assert await writer.run(notes) == ["after"]


async def test_too_many_operations_are_refused_and_taken_again_once_there_is_room(writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_PENDING", 3)
    waiting = [asyncio.ensure_future(writer.run(note(str(n)))) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(StorageBusyError) as caught:
        await writer.run(notes)
    assert caught.value.retry_after is not None
    assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert len(await writer.run(notes)) == 3


async def test_operations_that_weigh_too_much_together_are_refused_but_a_single_one_never(writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_PENDING_BYTES", 10)
    alone = asyncio.ensure_future(writer.run(note("large"), weight=1000))
    await asyncio.sleep(0)
    with pytest.raises(StorageBusyError):
        await writer.run(note("small"), weight=1)
    assert await alone == 1
    assert await writer.run(note("small"), weight=1) == 1


async def test_a_cancelled_waiter_disturbs_nobody(writer):
    first, second = (asyncio.ensure_future(writer.run(note(text))) for text in "ab")
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    assert await writer.run(notes) == ["a", "b"]


async def test_closing_writes_what_waits_then_refuses(writer):
    waiting = [asyncio.ensure_future(writer.run(note(str(n)))) for n in range(20)]
    await asyncio.sleep(0)
    await writer.close()
    assert [task.result() for task in waiting] == [1] * 20
    with pytest.raises(StorageFailedError):
        await writer.run(notes)
    await writer.close()


async def test_closing_during_a_commit_answers_it_and_what_collected_meanwhile(writer):
    first = asyncio.ensure_future(writer.run(note("first")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.ensure_future(writer.run(note("second")))
    await asyncio.sleep(0)
    await writer.close()
    assert (first.result(), second.result()) == (1, 1)


async def test_a_connection_that_cannot_be_opened_fails_the_start():
    def refuse():
        raise sqlite3.OperationalError("no")

    writer = Writer(refuse)
    with pytest.raises(sqlite3.OperationalError):
        await writer.start()
    with pytest.raises(StorageFailedError):
        await writer.run(notes)
    await writer.close()


async def test_an_idle_writer_moves_the_write_ahead_log_into_the_database(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "IDLE_SECONDS", 0.01)
    await writer.run(note("a"))
    async with asyncio.timeout(5):
        while b"notes" not in (tmp_path / "notes.db").read_bytes():
            await asyncio.sleep(0.01)


async def test_a_write_ahead_log_that_grew_too_large_is_emptied_under_load(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "CHECKED_COMMITS", 4)
    monkeypatch.setattr(connection, "MAX_WAL_PAGES", 2)
    for n in range(8):
        await writer.run(note(str(n)))
    async with asyncio.timeout(5):
        while (tmp_path / "notes.db-wal").stat().st_size:
            await asyncio.sleep(0.01)


async def test_a_damaged_page_refuses_what_touches_it_and_nothing_else(tmp_path):
    """Given two tables, when a page of the first is overwritten, then the second is still written."""

    def connect():
        return sqlite3.connect(tmp_path / "damaged.db", isolation_level=None)

    made = connect()
    for table in ("hurt", "well"):
        made.execute(f"CREATE TABLE {table} (number INTEGER PRIMARY KEY, text TEXT) STRICT")
        made.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(n, "x" * 1000) for n in range(50)])
    (root,) = made.execute("SELECT rootpage FROM sqlite_master WHERE name = 'hurt'").fetchone()
    (size,) = made.execute("PRAGMA page_size").fetchone()
    made.close()
    with (tmp_path / "damaged.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    started = Writer(connect)
    await started.start()

    def insert(table):
        return lambda connection: connection.execute(f"INSERT INTO {table} VALUES (100, 'y')").rowcount

    answers = await asyncio.gather(started.run(insert("hurt")), started.run(insert("well")), return_exceptions=True)
    await started.close()
    assert isinstance(answers[0], RowRefusedError)
    assert answers[1] == 1


async def test_a_thread_that_ends_by_what_nobody_foresaw_leaves_nobody_waiting(writer, monkeypatch):
    lives = asyncio.create_task(writer.lives())
    assert await writer.run(note("kept")) == 1
    began = threading.Event()
    go_on = threading.Event()

    def lost(_connection, _batch):
        began.set()
        go_on.wait(30)
        raise SystemError("lost")

    monkeypatch.setattr(writer, "_write", lost)
    first = asyncio.create_task(writer.run(note("in hand")))
    await asyncio.to_thread(began.wait, 30)
    second = asyncio.create_task(writer.run(note("waiting")))
    await asyncio.sleep(0)
    go_on.set()
    for waiting in (first, second, lives, asyncio.create_task(writer.run(note("late")))):
        with pytest.raises(StorageFailedError, match=r"the database's writer ended \(SystemError: lost\)"):
            await waiting
    await writer.close()


async def test_a_thread_that_is_closed_has_not_died(writer):
    lives = asyncio.create_task(writer.lives())
    await writer.close()
    assert await lives is None
