import asyncio
import sqlite3
import threading

import pytest

from host.storage import writer as writing
from host.storage.errors import RowRefusedError, StorageBusyError, StorageFailedError
from host.storage.writer import Writer


def note(text):
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?)", (text,)).rowcount


def notes(connection):
    return sorted(row[0] for row in connection.execute("SELECT text FROM notes"))


class Hook:
    """Collects what a test tells it inside a transaction."""

    def __init__(self):
        self.open, self.published = [], []

    def mark(self):
        return len(self.open)

    def rewind(self, mark):
        del self.open[mark:]

    def take(self):
        taken, self.open = self.open, []
        return taken

    def committed(self, taken):
        self.published.append(taken)


async def test_an_operation_answers_what_it_returns(writer):
    assert await writer.run(note("a")) == 1
    assert await writer.run(notes) == ["a"]


async def test_operations_of_one_turn_share_one_transaction(writer):
    hook = Hook()
    writer.hook(hook)
    await asyncio.gather(*(writer.run(note(str(n))) for n in range(50)))
    assert len(hook.published) == 1


async def test_what_comes_while_a_batch_is_written_goes_together_into_the_next(writer):
    hook = Hook()
    writer.hook(hook)
    first = asyncio.ensure_future(writer.run(note("first")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.gather(first, *(writer.run(note(str(n))) for n in range(50)))
    assert len(hook.published) == 2


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


async def test_items_of_a_channel_are_applied_together_and_one_can_be_refused(writer):
    def apply(connection, items):
        return [ValueError(item) if item < 0 else (item, len(items)) for item in items]

    channel = writer.channel(apply)
    answers = await asyncio.gather(*(channel.submit(item) for item in (1, -1, 2)), return_exceptions=True)
    assert answers[0] == (1, 3)
    assert isinstance(answers[1], ValueError)
    assert answers[2] == (2, 3)


async def test_a_full_disk_fails_the_whole_batch_and_the_writer_goes_on(writer):
    big = "x" * 2_000_000
    answers = await asyncio.gather(writer.run(note("small")), writer.run(note(big)), return_exceptions=True)
    assert all(isinstance(answer, StorageFailedError) for answer in answers)
    assert answers[0].retry_after is not None
    assert await writer.run(note("after")) == 1
    assert await writer.run(notes) == ["after"]


async def test_what_a_hook_collected_is_rewound_with_its_operation_and_published_with_its_commit(writer):
    hook = Hook()
    writer.hook(hook)

    def tell(text, *, fail=False):
        def operation(connection):
            hook.open.append(text)
            if fail:
                raise LookupError(text)

        return operation

    await asyncio.gather(
        writer.run(tell("a")), writer.run(tell("b", fail=True)), writer.run(tell("c")), return_exceptions=True
    )
    assert hook.published == [["a", "c"]]


async def test_what_a_hook_collected_is_rewound_when_the_disk_is_full(writer):
    hook = Hook()
    writer.hook(hook)

    def operation(connection):
        hook.open.append("lost")
        note("x" * 2_000_000)(connection)

    with pytest.raises(StorageFailedError):
        await writer.run(operation)
    await writer.run(notes)
    assert hook.published == [[]]


async def test_waiters_are_answered_although_a_hook_fails(writer):
    hook = Hook()
    hook.committed = lambda _: 1 / 0
    writer.hook(hook)
    assert await writer.run(note("a")) == 1


async def test_too_many_items_are_refused_and_taken_again_once_there_is_room(writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_PENDING", 3)
    channel = writer.channel(lambda _, items: items)
    waiting = [channel.submit(n) for n in range(3)]
    with pytest.raises(StorageBusyError) as caught:
        channel.submit(3)
    assert caught.value.retry_after is not None
    assert await asyncio.gather(*waiting) == [0, 1, 2]
    assert await channel.submit(4) == 4


async def test_items_that_weigh_too_much_together_are_refused_but_a_single_one_never(writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_PENDING_BYTES", 10)
    channel = writer.channel(lambda _, items: items)
    alone = channel.submit("large", weight=1000)
    with pytest.raises(StorageBusyError):
        channel.submit("small", weight=1)
    assert await alone == "large"
    assert await channel.submit("small", weight=1) == "small"


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
    monkeypatch.setattr(writing, "MAX_WAL_PAGES", 2)
    for n in range(8):
        await writer.run(note(str(n)))
    async with asyncio.timeout(5):
        while (tmp_path / "notes.db-wal").stat().st_size:
            await asyncio.sleep(0.01)


async def test_an_item_that_the_database_refuses_costs_no_other_item_and_no_other_channel_anything(writer):
    """Given a batch of two channels and an operation, when one item is refused, then it alone is."""

    def insert(connection, items):
        connection.executemany("INSERT INTO notes VALUES (?)", [(item,) for item in items])
        return [len(items)] * len(items)

    one, other = writer.channel(insert), writer.channel(insert)
    answers = await asyncio.gather(
        *(one.submit(item) for item in ("a", b"\xff", "b", "\udcff", object(), 2**70)),
        other.submit("c"),
        writer.run(note("d")),
        return_exceptions=True,
    )
    assert [isinstance(answer, RowRefusedError) for answer in answers] == [
        *(False, True, False, True, True, True),
        *(False, False),
    ]
    assert await writer.run(notes) == ["a", "b", "c", "d"]


async def test_what_a_hook_collected_for_a_refused_item_is_not_published(writer):
    hook = Hook()
    writer.hook(hook)

    def insert(connection, items):
        for item in items:
            hook.open.append(item)
            note(item)(connection)
        return items

    channel = writer.channel(insert)
    await asyncio.gather(*(channel.submit(item) for item in ("a", "\ud800", "b")), return_exceptions=True)
    assert hook.published == [["a", "b"]]


async def test_a_full_disk_is_the_disks_refusal_and_no_items(writer):
    def insert(connection, items):
        for item in items:
            note(item)(connection)
        return items

    channel = writer.channel(insert)
    answers = await asyncio.gather(channel.submit("a"), channel.submit("x" * 2_000_000), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageFailedError, StorageFailedError]
    assert await writer.run(notes) == []


async def test_a_damaged_page_refuses_what_touches_it_and_nothing_else(tmp_path):
    """Given two tables, when a page of the first is overwritten, then the second is still written."""

    def connect():
        return sqlite3.connect(tmp_path / "damaged.db", isolation_level=None)

    connection = connect()
    for table in ("hurt", "well"):
        connection.execute(f"CREATE TABLE {table} (number INTEGER PRIMARY KEY, text TEXT) STRICT")
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(n, "x" * 1000) for n in range(50)])
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'hurt'").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with (tmp_path / "damaged.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    started = Writer(connect)
    await started.start()

    def insert(table):
        def apply(connection, items):
            connection.executemany(f"INSERT INTO {table} VALUES (?, 'y')", [(item,) for item in items])
            return items

        return apply

    hurt, well = started.channel(insert("hurt")), started.channel(insert("well"))
    answers = await asyncio.gather(
        hurt.submit(100),
        well.submit(100),
        started.run(lambda connection: insert("hurt")(connection, [101])),
        started.run(lambda connection: insert("well")(connection, [101])),
        return_exceptions=True,
    )
    await started.close()
    assert [type(answer) for answer in answers] == [RowRefusedError, int, RowRefusedError, list]


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
