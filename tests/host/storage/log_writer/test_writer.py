"""The contract of the log's writer, through both links."""

import asyncio
import threading

import pytest
from log_worlds import LINKS, append, boot_with, event, ids, opened, submit
from msgspec.structs import replace

from host.routing.sqlite_log import SQLiteLog
from host.storage import connection
from host.storage.database import Database
from host.storage.errors import (
    RowRefusedError,
    StorageBusyError,
    StorageFailedError,
)
from host.storage.log_writer import batches, links
from host.storage.log_writer import writer as writing
from plugin_sdk.clock import SystemClock


@pytest.fixture(params=LINKS)
async def world(request, tmp_path):
    async with opened(tmp_path / "busbar.db", request.param) as found:
        yield found


async def test_too_many_items_are_refused_and_taken_again_once_there_is_room(world, monkeypatch):
    _, log = world
    monkeypatch.setattr(writing, "MAX_PENDING", 3)
    waiting = [submit(log, event(n)) for n in range(3)]
    with pytest.raises(StorageBusyError) as caught:
        submit(log, event(3))
    assert caught.value.retry_after is not None
    await asyncio.gather(*waiting)
    await submit(log, event(4))
    assert await ids(log) == ["0", "1", "2", "4"]


async def test_items_that_weigh_too_much_together_are_refused_but_a_single_one_never(world, monkeypatch):
    _, log = world
    monkeypatch.setattr(writing, "MAX_PENDING_BYTES", 500)
    alone = submit(log, event("large", data="x" * 1000))
    with pytest.raises(StorageBusyError):
        submit(log, event("small"))
    await alone
    await submit(log, event("small"))


async def test_an_item_that_fits_into_no_frame_is_refused(world, monkeypatch):
    database, log = world
    monkeypatch.setattr(writing, "MAX_ITEM", 1000)
    with pytest.raises(RowRefusedError):
        submit(log, event("large", data="x" * 1000))
    await submit(log, event("small"))
    assert database.log.trouble == ""


async def test_what_is_on_its_way_is_bounded_and_everything_arrives_in_its_order(world, monkeypatch):
    _, log = world
    monkeypatch.setattr(batches, "FRAME_ITEMS", 3)
    monkeypatch.setattr(writing, "FLYING_BYTES", 1000)
    answers = await append(log, *(event(n) for n in range(100)))
    assert [one.sequence for one in answers] == list(range(1, 101))
    assert await ids(log) == [str(n) for n in range(100)]


async def test_what_no_frame_can_carry_is_refused_and_costs_no_neighbour_anything(world):
    _, log = world
    odd = [replace(event("x"), **more) for more in ({"id": "\ud800"}, {"id": "a"}, {"subject": "\udcff"}, {"id": "c"})]
    answers = await asyncio.gather(*(log.append(one, b"{}") for one in odd), return_exceptions=True)
    assert [isinstance(answer, RowRefusedError) for answer in answers] == [True, False, True, False]


async def test_a_cancelled_waiter_disturbs_nobody_and_its_event_is_kept(world):
    _, log = world
    first, second = submit(log, event(1)), submit(log, event(2))
    first.cancel()
    await second
    assert await ids(log) == ["1", "2"]


async def test_closing_writes_what_waits_then_refuses(world):
    database, log = world
    waiting = [submit(log, event(n)) for n in range(20)]
    await database.close()
    assert [one.result().sequence for one in waiting] == list(range(1, 21))
    with pytest.raises(StorageFailedError):
        submit(log, event("late"))
    await database.close()


async def test_closing_during_a_commit_answers_it_and_what_collected_meanwhile(world):
    database, log = world
    first = submit(log, event(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = submit(log, event(2))
    await database.close()
    assert (first.result().sequence, second.result().sequence) == (1, 2)


@pytest.fixture(params=LINKS)
async def impatient(request, tmp_path, monkeypatch):
    """A world in which whoever meets a lock is refused at once."""
    pragmas = tuple(one for one in connection.PRAGMAS if "busy_timeout" not in one)
    monkeypatch.setattr(connection, "PRAGMAS", (*pragmas, "PRAGMA busy_timeout = 0"))
    monkeypatch.setattr(
        links, "_BOOT", boot_with(f"import host.storage.connection as c; c.PRAGMAS = {connection.PRAGMAS!r}")
    )
    async with opened(tmp_path / "busbar.db", request.param) as found:
        yield found


async def test_events_and_administration_share_the_file_and_neither_meets_a_lock(impatient):
    """Given both write without a pause, then both get on, and nobody hears of a lock."""
    database, log = impatient
    done = {"events": 0, "rows": 0}

    async def publish(name):
        for number in range(60):
            await submit(log, event(f"{name}-{number}"))
            done["events"] += 1

    async def administer(name):
        for number in range(60):
            key = f"{name}/{number}"
            await database.write(
                lambda connection, key=key: connection.execute("INSERT INTO cursors VALUES (?, 0, 1)", (key,)).rowcount
            )
            done["rows"] += 1

    await asyncio.gather(*(publish(n) for n in range(4)), *(administer(n) for n in range(4)))
    assert done == {"events": 240, "rows": 240}


async def test_while_an_operation_of_administration_runs_events_wait_and_then_go_on(world):
    database, log = world
    begun, ends = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def long(connection):
        connection.execute("INSERT INTO cursors VALUES ('p/s', 0, 1)")
        loop.call_soon_threadsafe(begun.set)
        return ends.wait(30)

    running = asyncio.create_task(database.write(long))
    await begun.wait()
    waiting = submit(log, event(1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    ends.set()
    assert await running
    assert (await waiting).sequence == 1


async def test_a_full_disk_is_the_disks_refusal_for_everyone_and_the_log_goes_on(tmp_path):
    def small():
        made = connection.connect(tmp_path / "busbar.db")
        pages = made.execute("PRAGMA page_count").fetchone()[0]
        made.execute(f"PRAGMA max_page_count = {pages + 20}")
        return made

    database = await Database.open(tmp_path / "busbar.db", link=links.ThreadLink(small))
    log = await SQLiteLog.open(database, SystemClock())
    answers = await append(log, event("small"), event("large", data="x" * 1_000_000))
    assert [type(one) for one in answers] == [StorageFailedError, StorageFailedError]
    assert answers[0].retry_after is not None
    assert (await submit(log, event("after"))).sequence == 1
    await database.close()
