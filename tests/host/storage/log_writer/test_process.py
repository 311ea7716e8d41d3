"""The process that writes the log: killed, refused, malformed, started again."""

import asyncio
import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from log_worlds import append, boot_with, event, ids, opened, submit

from host.routing.errors import EventConflictError
from host.routing.event_log import Outcome, PendingRetry, Settlement
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from host.storage.errors import (
    LogWriterError,
    StateBusyError,
    StorageFailedError,
)
from host.storage.log_writer import links, process
from host.storage.log_writer import writer as writing
from host.storage.log_writer.frames import MAX_FRAME, VERSION, Ended, Frame, Open, Reader, encode, framed, read_said
from host.storage.log_writer.links import ProcessLink
from plugin_sdk.clock import SystemClock


@pytest.fixture
async def alone(tmp_path):
    """A log that is written by a process."""
    async with opened(tmp_path / "busbar.db") as found:
        yield found


async def test_the_process_holds_nothing_but_its_socket_its_lock_and_the_database(alone):
    database, log = alone
    with socket.socket() as other:
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003 - its own signature
        os.kill(database.log.pid, signal.SIGKILL)
        await append(log, event(1))
        folder = Path(f"/proc/{database.log.pid}")
        held = sorted(os.readlink(one) for one in (folder / "fd").iterdir())
        assert sum(one.startswith("socket:") for one in held) <= 2  # its own, and a standard error that is one
        names = Counter(Path(one).name for one in held if one.startswith(str(database.path.parent)))
        assert set(names) == {"busbar.db", "busbar.db-wal", "busbar.db-shm", "busbar.db.writer"}
        # One connection writes, and one moves pages; SQLite shares the rest between them.
        twice = {"busbar.db": 2, "busbar.db-wal": 2}
        assert [name for name, count in names.items() if count > twice.get(name, 1)] == []
        assert len(held) <= 3 + names.total()
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
    link = ProcessLink(path)
    opening = asyncio.create_task(Database.open(path, link=link))
    async with asyncio.timeout(30):
        while not _has_open(link.pid, "busbar.db.writer"):
            await asyncio.sleep(0.005)
    assert not opening.done()
    assert not path.exists()
    os.close(held)
    await (await opening).close()


def _has_open(pid, name):
    """Whether a process has come so far that it has this file open."""
    if pid is None:
        return False
    try:
        return any(os.readlink(one).endswith(name) for one in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False  # something of it was closed while it was looked at


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
