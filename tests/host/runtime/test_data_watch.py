"""The watch over what plugins keep on the disk: it cuts who is over, and nobody's odd folder ends it for the others."""

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from host.runtime import data_watch
from host.runtime.data_folder import FolderMovedError, Tally, UncountableError, usage
from host.runtime.data_watch import MOVES, DataWatch
from host.runtime.held_files import HiddenError
from host.runtime.writes import Writes, in_memory

QUOTA = 2**20


class Watched:
    """A data folder, and what its worker was told."""

    def __init__(self, watch, folder, pid, quota=QUOTA):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.cuts = []
        self.unseen = []
        self.held = []
        self.told = asyncio.Event()
        self.forget = watch.add(folder, quota, pid, -1, cut=self._cut, unseen=self._unseen, held=self._held)

    def _held(self, held):
        self.held.append(held)
        self.told.set()

    def _cut(self, why):
        self.cuts.append(why)
        self.told.set()

    def _unseen(self, why):
        self.unseen.append(why)
        self.told.set()

    async def cut(self):
        await self.until(lambda: self.cuts)
        return self.cuts[0]

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                self.told.clear()
                await self.told.wait()

    def fill(self, size=2 * QUOTA):
        (self.folder / "file").write_bytes(bytes(size))


@pytest.fixture
async def watch():
    one = DataWatch()
    task = asyncio.create_task(one.run())
    yield one
    assert not task.done(), task
    task.cancel()
    await asyncio.wait((task,))


@pytest.fixture
def sleeper():
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def watched(watch, tmp_path, sleeper):
    def make(name="p", pid=sleeper, **options):
        return Watched(watch, tmp_path / name, pid, **options)

    return make


async def test_a_folder_over_its_quota_has_its_worker_cut_once_and_no_other(watched):
    one, other = watched("one"), watched("other")
    one.fill()
    assert (await one.cut()).startswith("disk quota: ")
    other.fill()
    await other.cut()
    assert len(one.cuts) == 1


async def test_a_folder_within_its_quota_is_left_alone(watched):
    within, over = watched("within"), watched("over")
    within.fill(QUOTA // 2)
    over.fill()
    await over.cut()
    assert within.cuts == within.unseen == []


HOLDING = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.unlink(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
os.write(file, bytes(2 * 2**20))
sys.stdin.read()
"""


async def test_what_a_worker_removed_and_still_holds_counts_against_its_quota(watched, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, tmp_path / "p-file"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        one = watched(pid=process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        why = await one.cut()
        process.kill()
    assert "of them in files that it removed and still holds" in why


async def test_workers_that_share_a_folder_share_its_quota(watched):
    old, new, other = watched("p"), watched("p"), watched("other")
    old.fill()
    assert await old.cut() == await new.cut()
    assert other.cuts == []


async def test_who_is_forgotten_hears_no_more(watched):
    gone, there = watched("gone"), watched("there")
    gone.forget()
    gone.fill()
    there.fill()
    await there.cut()
    assert gone.cuts == []


@pytest.mark.parametrize(
    "error",
    [
        UncountableError("a folder cannot be read"),
        RuntimeError("a mistake of the host's own"),
        RecursionError("too deep"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_one_folder_that_cannot_be_counted_is_its_own_plugins_trouble(watched, monkeypatch, error):
    go_on = Tally.go_on

    def failing(tally, most):
        if tally.path.name == "odd":
            raise error
        return go_on(tally, most)

    _remember_paths(monkeypatch)
    monkeypatch.setattr(Tally, "go_on", failing)
    odd, other = watched("odd"), watched("other")
    assert (await odd.cut()).startswith("uncountable data: ")
    other.fill()
    assert (await other.cut()).startswith("disk quota: ")
    assert len(odd.cuts) == 1


def _remember_paths(monkeypatch):
    class Remembering(Tally):
        def __init__(self, path):
            super().__init__(path)
            self.path = path

    monkeypatch.setattr(data_watch, "Tally", Remembering)


async def test_a_host_that_is_short_of_descriptors_cuts_nobody_and_counts_again(watched, monkeypatch):
    go_on, times = Tally.go_on, []

    def short(tally, most):
        times.append(1)
        if len(times) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return go_on(tally, most)

    monkeypatch.setattr(Tally, "go_on", short)
    one = watched()
    one.fill()
    assert (await one.cut()).startswith("disk quota: ")
    assert len(times) > 1


async def test_folders_that_move_as_fast_as_they_are_counted_are_no_way_out(watched, monkeypatch):
    times = []

    def moving(_tally, _most):
        times.append(1)
        raise FolderMovedError("a folder was moved while it was counted")

    monkeypatch.setattr(Tally, "go_on", moving)
    assert (await watched().cut()).startswith("uncountable data: a folder was moved while it was counted")
    assert len(times) == MOVES + 1


async def test_a_folder_that_moves_once_is_counted_again(watched, monkeypatch):
    go_on, times = Tally.go_on, []

    def moving(tally, most):
        times.append(1)
        if len(times) == 1:
            raise FolderMovedError("a folder was moved while it was counted")
        return go_on(tally, most)

    monkeypatch.setattr(Tally, "go_on", moving)
    one = watched()
    one.fill()
    assert (await one.cut()).startswith("disk quota: ")


async def test_where_the_host_was_never_let_see_what_a_worker_holds_it_says_so_and_counts_the_folder(
    watched, monkeypatch
):
    def hidden(*_arguments, **_named):
        raise HiddenError("hidden")

    monkeypatch.setattr(data_watch, "held_bytes", hidden)
    one = watched()
    one.fill()
    assert (await one.cut()).startswith("disk quota: ")
    assert one.unseen == ["hidden"]


async def test_a_worker_that_hides_what_was_to_be_seen_before_is_cut(watched, monkeypatch):
    times = []

    def hiding(*_arguments, **_named):
        times.append(1)
        if len(times) > 1:
            raise HiddenError("the files that it has open are hidden from the host")
        return 0

    monkeypatch.setattr(data_watch, "held_bytes", hiding)
    one = watched()
    assert await one.cut() == "uncountable data: the files that it has open are hidden from the host"
    assert one.unseen == []


async def test_a_count_is_made_at_once_where_more_was_written_than_there_was_room_for(watched, monkeypatch):
    counts, written = [], {"bytes": 0}
    counted = asyncio.Event()
    loop = asyncio.get_running_loop()
    go_on = Tally.go_on

    def counting(tally, entries):
        done = go_on(tally, entries)
        if done:
            counts.append(tally)
            loop.call_soon_threadsafe(counted.set)
        return done

    # Without a hurry the next count would be after the test.
    monkeypatch.setattr(data_watch, "COUNT_SECONDS", 1000.0)
    monkeypatch.setattr(data_watch, "LONGEST_SECONDS", 1000.0)
    monkeypatch.setattr(Writes, "bytes", lambda _writes: written["bytes"])
    monkeypatch.setattr(Tally, "go_on", counting)
    one = watched()
    async with asyncio.timeout(20):
        await counted.wait()
    one.fill()
    written["bytes"] = 3 * QUOTA
    assert (await one.cut()).startswith("disk quota: ")
    assert len(counts) == 2


async def test_a_large_folder_is_counted_in_turns_and_delays_no_other(watched, monkeypatch):
    monkeypatch.setattr(data_watch, "ENTRIES", 2)
    large = watched("large")
    for number in range(40):
        (large.folder / str(number)).write_bytes(bytes(4096))
    other = watched("other")
    other.fill()
    await other.cut()
    large.fill()
    assert (await large.cut()).startswith("disk quota: ")


WRITING = """
import os, sys
print("ready", flush=True)
step = int(sys.argv[2])
for line in sys.stdin:
    os.makedirs(sys.argv[1], exist_ok=True)
    for number in range(int(line)):
        with open(os.path.join(sys.argv[1], str(number)), "wb") as file:
            file.write(bytes(step))
    print("written", flush=True)
"""


@pytest.fixture
def writing(tmp_path):
    """Starts a process that writes so many files, each of so many bytes, when it is told to."""
    with contextlib.ExitStack() as stack:

        def start(step, folder=None):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITING, folder or tmp_path / "p", str(step)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            assert process.stdout.readline() == b"ready\n"
            return process

        yield start


def tell(process, count):
    process.stdin.write(b"%d\n" % count)
    process.stdin.flush()


async def test_who_wrote_more_than_there_was_room_for_stands_still_until_it_is_counted(watched, writing, monkeypatch):
    go_on, may_count, counts = Tally.go_on, threading.Event(), []

    def waiting(tally, most):
        counts.append(tally)
        if len(counts) > 1:
            may_count.wait(30)
        return go_on(tally, most)

    # Without a hurry the next count would be after the test.
    monkeypatch.setattr(data_watch, "COUNT_SECONDS", 1000.0)
    monkeypatch.setattr(data_watch, "LONGEST_SECONDS", 1000.0)
    monkeypatch.setattr(Tally, "go_on", waiting)
    process = writing(QUOTA // 4)
    one = watched(pid=process.pid)
    async with asyncio.timeout(30):
        while not counts:
            await asyncio.sleep(0.01)
    tell(process, 1000)
    await one.until(lambda: one.held == [True])
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert (one.cuts, len(counts) <= 2) == ([], True)
    may_count.set()
    assert (await one.cut()).startswith("disk quota: ")


async def test_who_only_writes_the_same_again_is_let_go_on_after_each_count(watched, writing):
    process = writing(QUOTA // 2)
    one = watched(pid=process.pid)
    for _ in range(8):
        tell(process, 1)
        assert await asyncio.to_thread(process.stdout.readline) == b"written\n"
        await asyncio.sleep(0.03)
    await one.until(lambda: False in one.held)
    assert one.held[: 2 * (len(one.held) // 2)] == [True, False] * (len(one.held) // 2)
    assert one.cuts == []
    tell(process, 1)
    assert await asyncio.to_thread(process.stdout.readline) == b"written\n"


async def test_a_count_that_the_machine_does_not_allow_lets_a_worker_go_on_until_the_next_can_be_tried(
    watched, writing, monkeypatch
):
    failed, step = [], data_watch.COUNT_SECONDS

    def short(_tally, _most):
        failed.append(time.monotonic())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    process = writing(QUOTA)
    one = watched(pid=process.pid)
    monkeypatch.setattr(Tally, "go_on", short)
    for times in (1, 2):
        tell(process, 3)
        await one.until(lambda times=times: one.held.count(False) >= times)
        assert await asyncio.to_thread(process.stdout.readline) == b"written\n"
    assert one.cuts == []
    assert min(after - before for before, after in itertools.pairwise(failed)) >= step


@pytest.mark.parametrize("where", ["on a disk", "in memory"])
async def test_who_is_over_its_quota_stands_still_long_before_the_next_count(watch, writing, tmp_path, where):
    folder = tmp_path / "p" if where == "on a disk" else Path("/dev/shm", f"busbar-{uuid.uuid4().hex}")  # noqa: S108 - a name nobody guesses
    if where == "in memory" and not in_memory(folder.parent):
        pytest.skip("this machine has no file system in memory")
    process = writing(2**20, folder)
    try:
        one = Watched(watch, folder, process.pid, quota=8 * QUOTA)
        tell(process, 100_000)
        await one.until(lambda: one.cuts or True in one.held)
        if not one.cuts:
            await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        written = usage(folder)
        await one.cut()
        process.kill()
        process.wait()
        assert written < 512 * 2**20  # of the 98 GiB that it would write
    finally:
        shutil.rmtree(folder, ignore_errors=True)
