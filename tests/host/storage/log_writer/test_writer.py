"""The contract of the log's writer, through both links; and the process: killed, refused, malformed, started again."""

import asyncio
import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from host.routing.errors import EventConflictError
from host.routing.event_log import Outcome, PendingRetry, Settlement
from host.routing.sqlite_log import SQLiteLog
from host.storage import connection
from host.storage.database import Database
from host.storage.errors import (
    LogWriterError,
    RowRefusedError,
    StateBusyError,
    StorageBusyError,
    StorageFailedError,
)
from host.storage.log_writer import links, process
from host.storage.log_writer import writer as writing
from host.storage.log_writer.frames import MAX_FRAME, VERSION, Ended, Frame, Open, Reader, encode, framed, read_said
from host.storage.log_writer.links import ProcessLink, thread_link
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import new_event

LINKS = {"thread": thread_link, "process": ProcessLink}


@contextlib.asynccontextmanager
async def opened(path, kind="process"):
    """A database and its log, and the task that starts the writer again."""
    database = await Database.open(path, link=LINKS[kind](path))
    running = asyncio.create_task(keep(database.log))
    try:
        yield database, await SQLiteLog.open(database, SystemClock())
    finally:
        running.cancel()
        await asyncio.wait((running,))
        await database.close()


async def keep(writer):
    """What the host's background parts do, without their waits."""
    while True:
        with contextlib.suppress(LogWriterError):
            await writer.run()


@pytest.fixture(params=LINKS)
async def world(request, tmp_path):
    async with opened(tmp_path / "busbar.db", request.param) as found:
        yield found


@pytest.fixture
async def alone(tmp_path):
    """A log that is written by a process."""
    async with opened(tmp_path / "busbar.db") as found:
        yield found


def event(id_, **more):
    return new_event("a.b", source="/tests", id=str(id_), **more)


def submit(log, one):
    return log.append(one, one.to_json())


async def append(log, *events):
    return await asyncio.gather(*(submit(log, one) for one in events), return_exceptions=True)


async def ids(log):
    return [stored.event.id for stored in await log.read(0, 1_000_000)]


# -- both links


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
    monkeypatch.setattr(writing, "FRAME_ITEMS", 3)
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


def boot_with(statements):
    """What the process runs, with something done to it before it begins."""
    return links._BOOT.replace("; main(", f"; {statements}; main(")


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


# -- the process


async def test_the_process_holds_nothing_but_its_socket_its_lock_and_the_database(alone):
    database, log = alone
    with socket.socket() as other:
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003 - its own signature
        os.kill(database.log.pid, signal.SIGKILL)
        await append(log, event(1))
        folder = Path(f"/proc/{database.log.pid}")
        held = sorted(os.readlink(one) for one in (folder / "fd").iterdir())
        assert sum(one.startswith("socket:") for one in held) <= 2  # its own, and a standard error that is one
        names = {Path(one).name for one in held if one.startswith(str(database.path.parent))}
        assert names == {"busbar.db", "busbar.db-wal", "busbar.db-shm", "busbar.db.writer"}
        assert len(held) <= 3 + len(names)
        assert (folder / "environ").read_bytes() == b""
        (resident,) = [line for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS")]
        assert int(resident.split()[1]) < 64 * 1024


async def test_a_signal_that_a_terminal_sends_to_all_does_not_end_it(alone):
    database, log = alone
    before = database.log.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(before, number)
    await append(log, event(1))
    assert database.log.pid == before


async def test_no_second_host_has_the_log_while_the_process_lives(alone, monkeypatch):
    database, log = alone
    await append(log, event(1))
    monkeypatch.setattr(links, "_BOOT", boot_with("import host.storage.log_writer.process as p; p.LOCK_SECONDS = 0"))
    other = ProcessLink(database.path)
    with pytest.raises(StateBusyError, match="still writes the log"):
        await Database.open(database.path, link=other)
    assert [one.sequence for one in await append(log, event(2))] == [2]


async def test_a_writer_waits_for_the_lock_of_the_one_before_it(tmp_path):
    """Given a writer of a host that was killed, when it ends at last, then the next one has the log."""
    path = tmp_path / "busbar.db"
    held = os.open(path.with_name("busbar.db.writer"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    opening = asyncio.create_task(Database.open(path, link=ProcessLink(path)))
    await asyncio.sleep(0.3)
    assert not opening.done()
    assert not path.exists()
    os.close(held)
    await (await opening).close()


async def started(path):
    """A process as the host starts it, and its end of the socket."""
    mine, theirs = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-c", links._BOOT, str(path), str(os.getpid()), *map(str, links._IMPORTED)],
        stdin=theirs.fileno(),
    )
    theirs.close()
    mine.settimeout(30)
    return child, mine, Reader()


def heard(connection, reader):
    """The next thing that it says; None at its end."""
    while (payload := reader.next()) is None:
        data = connection.recv(65536)
        if not data:
            return None
        reader.feed(data)
    return read_said(payload)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param((MAX_FRAME + 1).to_bytes(4, "big"), "bytes, and may have", id="too large"),
        pytest.param(framed(b"\xc1"), "malformed", id="no MessagePack"),
        pytest.param(framed(encode([2, VERSION, "one", 0, [], [], []])), "malformed", id="of another shape"),
        pytest.param(framed(encode(Frame(VERSION + 1, 1, 0, [], [], []))), "version", id="of another version"),
        pytest.param(framed(encode(Open(VERSION, b"again"))), "open already", id="opened twice"),
    ],
)
async def test_what_is_no_frame_ends_the_process_loudly(tmp_path, sent, reason):
    await (await Database.open(tmp_path / "busbar.db")).close()
    child, connection, reader = await started(tmp_path / "busbar.db")
    with connection:
        assert heard(connection, reader).pid == child.pid
        connection.sendall(framed(encode(Open(VERSION, b"life"))))
        heard(connection, reader)
        connection.sendall(sent)
        words = heard(connection, reader)
        assert isinstance(words, Ended)
        assert reason in words.reason
        assert heard(connection, reader) is None
    assert child.wait(30) == 1


async def test_what_the_host_cannot_understand_ends_the_process_and_another_one_takes_over(alone, monkeypatch):
    database, log = alone
    before = database.log.pid
    database.log._link._reader.feed(framed(b"\xc1"))
    await append(log, event(1))
    await append(log, event(2))
    assert await ids(log) == ["1", "2"]
    assert database.log.pid != before
    assert not Path(f"/proc/{before}").exists()


HOST = """
import asyncio, os, sys
from pathlib import Path
import structlog
from host.routing.sqlite_log import SQLiteLog
from host.storage import connection
from host.storage.database import Database
from host.storage.log_writer.links import ProcessLink
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import new_event

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    path = Path(sys.argv[1])
    database = await Database.open(path, link=ProcessLink(path))
    log = await SQLiteLog.open(database, SystemClock())
    print(database.log.pid, flush=True)
    async def publisher(name):
        for n in range(100000):
            event = new_event("a.b", source="/crash", id=f"{os.getpid()}-{name}-{n}")
            await log.append(event, event.to_json())
            print(event.id, flush=True)
    await asyncio.gather(*(publisher(name) for name in range(32)))

asyncio.run(main())
"""


async def test_a_host_that_is_killed_takes_its_writer_along_and_the_next_one_has_all_that_was_answered(tmp_path):
    path, answered = tmp_path / "busbar.db", []
    for number in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", HOST, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        )
        writer = int(child.stdout.readline())
        answered += [child.stdout.readline().strip() for _ in range(200 + 300 * number)]
        child.send_signal(signal.SIGKILL)
        answered += [one.strip() for one in child.stdout.readlines() if one.endswith("\n")]
        child.wait()
        async with opened(path) as (_, log):  # which waits for the writer's lock
            assert not alive(writer)
            kept = await ids(log)
            assert set(answered) <= set(kept)
            assert len(kept) == len(set(kept))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_nothing_is_lost_nothing_comes_twice_and_all_in_order_although_the_writer_is_killed_again_and_again(
    tmp_path, monkeypatch
):
    """A law: whatever is killed when, every item was done once, and listeners heard of every event once, in order."""
    monkeypatch.setattr(writing, "QUICK_RESTARTS", 1000)
    monkeypatch.setattr(writing, "MAX_SENDINGS", 1000)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with opened(tmp_path / "busbar.db") as (database, log):
        told, answered, conflicts = [], {}, 0
        log.listen(lambda after, events: told.append((after, [one.sequence for one in events])))
        await log.cursor("p/s", start=0)

        async def publish(name):
            nonlocal conflicts
            for number in range(120):
                one = event(f"{name}-{number}")
                answered[one.id] = (await submit(log, one)).sequence
                if number % 10 == 0:
                    assert (await submit(log, one)).duplicate
                    (conflict,) = await append(log, event(one.id, data=1))
                    conflicts += isinstance(conflict, EventConflictError)

        async def settle():
            for number in range(1, 101):
                (stored,) = await log.read(number - 1, 1) or await first_event()
                outcome = Settlement("p/s", "p", stored, 1, Outcome.DEAD_LETTERED, 1.0, 0.1, error="why")
                await log.settle([outcome], {"p/s": number}, {"p/s": [number + 1]})
                await log.begin([PendingRetry("p/s", 10_000 + number, 1, 5.0, "begun")])

        async def first_event():
            await submit(log, event("first"))
            return await log.read(0, 1)

        async def kill():
            for _ in range(12):
                await asyncio.sleep(rng.uniform(0.0, 0.06))
                while database.log.pid is None:
                    await asyncio.sleep(0.005)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(database.log.pid, signal.SIGKILL)

        monkey = asyncio.create_task(kill())
        await asyncio.gather(*(publish(name) for name in range(8)), settle())
        await monkey
        stored = await log.read(0, 1_000_000)
        places = {one.event.id: one.sequence for one in stored}
        assert {id_: places[id_] for id_ in answered} == answered
        assert conflicts == 8 * 12
        heard_of = [sequence for _, found in told for sequence in found]
        assert heard_of == sorted(places.values()), "every event was told once, in order"
        assert [after for after, _ in told[1:]] == [found[-1] for _, found in told[:-1]], "and without a gap"
        assert await log.cursor("p/s", start=0) == 100
        for table, count in {"deliveries": 100, "dead_letters": 100, "retries": 100}.items():
            assert (await database.read(f"SELECT count(*) FROM {table}"))[0][0] == count, f"{table} were written once"
        assert database.log.restarts > 0


async def test_a_host_that_is_stopped_while_its_writer_is_gone_still_writes_what_waits(tmp_path):
    database = await Database.open(tmp_path / "busbar.db", link=ProcessLink(tmp_path / "busbar.db"))
    log = await SQLiteLog.open(database, SystemClock())
    database.log._kept = True  # it was run, until a moment ago
    os.kill(database.log.pid, signal.SIGSTOP)
    waiting = submit(log, event(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    os.kill(database.log.pid, signal.SIGKILL)
    await database.close()
    assert (await waiting).sequence == 1


async def test_a_writer_that_ends_again_and_again_is_given_up_until_it_can_be_started_and_nobody_waits(
    tmp_path, monkeypatch
):
    path = tmp_path / "busbar.db"
    database = await Database.open(path, link=ProcessLink(path))
    log = await SQLiteLog.open(database, SystemClock())
    boot = links._BOOT
    running = asyncio.create_task(database.log.run())
    await asyncio.sleep(0)
    monkeypatch.setattr(links, "_BOOT", "import sys; sys.exit(3)")
    os.kill(database.log.pid, signal.SIGSTOP)
    one = event(1)
    waiting = submit(log, one)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    os.kill(database.log.pid, signal.SIGKILL)
    with pytest.raises(LogWriterError):
        await running
    with pytest.raises(StorageFailedError, match="it is kept once"):
        await waiting
    with pytest.raises(StorageFailedError, match="does not run"):
        submit(log, event(2))
    assert database.log.given_up
    assert await database.write(lambda _: "administration goes on") == "administration goes on"
    monkeypatch.setattr(links, "_BOOT", boot)
    again = asyncio.create_task(database.log.run())
    while database.log.trouble:
        await asyncio.sleep(0.01)
    assert (await submit(log, one)).duplicate, "what was sent before is kept, once"
    await submit(log, event(2))
    assert await ids(log) == ["1", "2"]
    again.cancel()
    await asyncio.wait((again,))
    await database.close()


async def test_a_frame_that_the_writer_always_dies_of_is_refused_in_the_end(tmp_path, monkeypatch):
    path = tmp_path / "busbar.db"
    fatal = boot_with(
        "import os; import host.storage.log_writer.appending as a; whole = a.append; "
        "a.append = lambda c, rows, *more: os._exit(9) if 'deadly' in rows else whole(c, rows, *more)"
    )
    monkeypatch.setattr(links, "_BOOT", fatal)
    async with opened(path) as (database, log):
        deadly = submit(log, event("deadly"))
        with pytest.raises(StorageFailedError):
            await deadly
        while database.log.given_up:
            await asyncio.sleep(0.01)
        assert (await submit(log, event("well"))).sequence == 1


def test_the_process_imports_next_to_nothing_of_the_host():
    """What it imports, it keeps in memory, and its start waits for."""
    code = "import sys; sys.path[:0] = sys.argv[1:]; import host.storage.log_writer.process; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, links._IMPORTED)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert not found & {"asyncio", "aiohttp", "structlog", "pydantic", "cryptography", "plugin_sdk", "pluggy", "ssl"}


def test_a_lock_that_nobody_lets_go_of_is_said_to_be_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "LOCK_SECONDS", 0)
    assert process.lock(tmp_path / "busbar.db")
    assert not process.lock(tmp_path / "busbar.db")
