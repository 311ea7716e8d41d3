"""The plugins' data on the disk, watched all in one thread of its own, so that none of them fills it.

How much a worker has written since its last count is one small file, read at every turn. Its data folder, and what
it holds beside it, is counted every half second. A worker that has written more than there was room for stands still
from that turn on until it is counted: then it goes on, or is ended. So what it can write beyond its quota is what it
writes between two turns, however long a count takes. A count is taken some entries at a time, so that a large folder
delays no other plugin's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from host.runtime.data_folder import TOO_MANY, FolderMovedError, Tally, UncountableError
from host.runtime.held_files import HiddenError, held_bytes
from host.runtime.writes import Dirtied, Writes, in_memory

TURN_SECONDS: Final = 0.1
"""Between two turns, where the machine writes little."""
QUICK_SECONDS: Final = 0.02
"""Between two turns where it writes much: a disk that takes 1 GiB in a second has taken some 20 MiB meanwhile."""
QUICK_BYTES: Final = 2 * 2**20
"""Much, between two looks at the machine as a whole."""
PRIORITY: Final = -10
"""Of the thread while it looks, by nice(1), where the host may have that: a machine that a worker keeps busy must not
delay it. While it counts it has no more than others, for then nobody writes who matters."""
LONGEST_PAUSE: Final = 0.01
"""Between two turns of one count: as long as the last turn took, so that half of the time is the others', or this."""
COUNT_SECONDS: Final = 0.5
"""Between two counts of a folder, where nothing hurries them."""
THOROUGH_SECONDS: Final = 5.0
"""Between two thorough looks at what a worker holds, where it has written nothing meanwhile."""
ENTRIES: Final = 2_000
"""Entries of one folder that are counted in one turn: some 5 ms."""
COST_LIMIT: Final = 20.0
"""A folder that takes long to count is counted so many times less often than it takes."""
HURRIED_COST_LIMIT: Final = 3.0
"""The same, where its workers write more than there is room for; they stand still meanwhile."""
LONGEST_SECONDS: Final = 10.0
"""And so often at least."""
MOVES: Final = 10
"""Counts in a row that may be spoilt by folders that move; more are no accident."""

_log = structlog.get_logger(__name__)


_Told = list[Callable[[], None]]


@dataclass(slots=True)
class _Worker:
    """One worker. `written` is what it had written when the last count began, `wrote` whether that was news."""

    pid: int
    inbox: int
    writes: Writes
    cut: Callable[[str], None]
    unseen: Callable[[str], None]
    held: Callable[[bool], None]
    written: int = 0
    wrote: bool = True
    thorough_at: float = 0.0
    seen: bool = False
    told_unseen: bool = False
    ended: bool = False

    def note_written(self) -> None:
        found = self.writes.bytes()
        self.wrote = found is not None and found != self.written
        self.written = self.written if found is None else found

    def since(self) -> int:
        """Bytes written since the last count began."""
        return (self.writes.bytes() or self.written) - self.written


@dataclass(slots=True)
class _Folder:
    """One data folder. `room` is what was left of the quota at the last count, `cost` the seconds that one took.

    `held`: its workers stand still until it is counted. `blind_until`: nobody is stopped, for a count cannot be made.
    """

    path: Path
    quota: int
    in_memory: bool
    room: int
    workers: dict[int, _Worker] = field(default_factory=dict)
    tally: Tally | None = None
    cost: float = 0.0
    next_at: float = 0.0
    hurry_at: float = 0.0
    blind_until: float = 0.0
    moves: int = 0
    held: bool = False

    @property
    def is_pressing(self) -> bool:
        """Whether it is looked at in every turn: it is being counted, or nothing of it shows in the whole machine's."""
        return self.tally is not None or self.held or self.in_memory

    def begin(self, workers: tuple[_Worker, ...]) -> Tally:
        for worker in workers:
            worker.note_written()
        self.cost = 0.0
        self.tally = Tally(self.path)
        return self.tally

    def give_up(self) -> None:
        if self.tally is not None:
            self.tally.close()
            self.tally = None


class DataWatch:
    """Has workers cut that keep more on the disk than their quota, or keep it so that it cannot be counted.

    One for a host. A folder that cannot be counted is its own plugin's trouble: all others are counted as ever.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, _Folder] = {}
        self._number = 0
        self._changing = threading.Lock()

    def add(
        self,
        folder: Path,
        quota: int,
        pid: int,
        inbox: int,
        *,
        cut: Callable[[str], None],
        unseen: Callable[[str], None],
        held: Callable[[bool], None] = lambda _held: None,
    ) -> Callable[[], None]:
        """Watch what a worker keeps in `folder`, and beside it; answers how to stop watching.

        `inbox` is the host's descriptor of the socket to it. Workers that share a folder, as during an upgrade, share
        the quota, and are cut together. `cut` is called with why, at most once. `unseen` is called, at most once,
        where this machine does not let the host see which files the worker holds: then only the folder is counted.
        `held` is called with whether the worker stands still for a count, when that changes. All three are called on
        the loop of `run`.
        """
        path = Path(os.path.realpath(folder))
        watched = self._folders.get(path)
        memory = in_memory(path) if watched is None else watched.in_memory
        worker = _Worker(pid, inbox, Writes(pid, in_memory=memory), cut, unseen, held)
        worker.note_written()
        with self._changing:
            self._number += 1
            number = self._number
            watched = self._folders.setdefault(path, _Folder(path, quota, memory, quota))
            watched.quota = quota
            watched.workers[number] = worker

        def forget() -> None:
            with self._changing:
                watched.workers.pop(number, None)
                if not watched.workers and self._folders.get(path) is watched:
                    del self._folders[path]
            worker.writes.close()

        return forget

    async def run(self) -> None:
        """Look, for ever. The turns wait for nothing on the loop: a busy one would delay them."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        stop = threading.Event()
        threading.Thread(target=self._main, args=(loop, stop, ended), name="data-watch", daemon=True).start()
        try:
            await ended
        finally:
            stop.set()

    # -- in the thread

    def _main(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, ended: asyncio.Future[None]) -> None:
        dirtied = Dirtied()
        failure: BaseException | None = None
        try:
            self._turns(loop, stop, dirtied)
        except Exception as error:  # noqa: BLE001 - the loop's: `run` raises it
            failure = error
        finally:
            dirtied.close()
            with self._changing:
                held = [
                    worker for folder in self._folders.values() if folder.held for worker in folder.workers.values()
                ]
            for worker in held:  # nobody counts them any more
                worker.writes.go_on()
            _call(loop, _end, ended, failure)

    def _turns(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, dirtied: Dirtied) -> None:
        turn_at, before = 0.0, dirtied.bytes()
        place = _Priority()
        while not stop.is_set():
            with self._changing:
                pressing = any(folder.is_pressing for folder in self._folders.values())
            told: _Told = []
            written = dirtied.bytes()
            busy = written is None or before is None or written - before > QUICK_BYTES
            before = written
            now = time.monotonic()
            counting = False
            if busy or pressing or now >= turn_at:
                turn_at = now + TURN_SECONDS
                with self._changing:
                    looks = [_Look(folder, tuple(folder.workers.values())) for folder in self._folders.values()]
                told = [tell for look in looks for tell in look.take()]
                counting = any(look.folder.tally is not None for look in looks)
            for tell in told:
                _call(loop, tell)
            place.set(0 if counting else PRIORITY)
            if counting:
                stop.wait(min(time.monotonic() - now, LONGEST_PAUSE))
            elif not told:
                stop.wait(QUICK_SECONDS)


class _Priority:
    """The priority of the thread that makes it, beside that of the host; where it may not be raised, it stays."""

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._own = os.getpriority(os.PRIO_PROCESS, self._thread)
        self._set = 0

    def set(self, priority: int) -> None:
        if priority != self._set:
            self._set = priority
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._thread, self._own + priority)


def _call(loop: asyncio.AbstractEventLoop, tell: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
        loop.call_soon_threadsafe(tell, *arguments)


def _end(ended: asyncio.Future[None], failure: BaseException | None) -> None:
    if ended.done():
        return
    if failure is None:
        ended.set_result(None)
    else:
        ended.set_exception(failure)


class _Look:
    """A look at one folder and the workers that use it now."""

    def __init__(self, folder: _Folder, workers: tuple[_Worker, ...]) -> None:
        self.folder = folder
        self._workers = tuple(worker for worker in workers if not worker.ended)

    def take(self) -> _Told:
        """Go on counting, or begin to where it is time; whatever goes wrong is this folder's alone."""
        folder = self.folder
        if not self._workers:
            folder.give_up()
            return []
        try:
            return self._go_on()
        except UncountableError as error:
            why = f"uncountable data: {error.message}"
        except OSError as error:
            # Descriptors or memory are short, of the host's own: no plugin's doing, and to be tried again.
            _log.warning("data_not_counted", folder=folder.path.name, reason=str(error))
            folder.give_up()
            folder.next_at = folder.hurry_at = folder.blind_until = time.monotonic() + COUNT_SECONDS
            return self._release()
        except Exception as error:  # noqa: BLE001 - logged; the others' quotas must not end by one folder
            _log.exception("data_not_counted", folder=folder.path.name)
            why = f"uncountable data: {type(error).__name__}: {error}"
        folder.give_up()
        return self._cut(why)

    def _go_on(self) -> _Told:
        folder, now = self.folder, time.monotonic()
        hurried = self._is_over()
        if hurried and not folder.held and now >= folder.blind_until:
            return self._hold()  # whatever the count takes: it begins in the next turn, which is at once
        if folder.tally is None and now < folder.next_at and not (hurried and now >= folder.hurry_at):
            return []
        told: _Told = []
        tally = folder.tally or folder.begin(self._workers)
        try:
            done = tally.go_on(ENTRIES)
        except FolderMovedError as error:
            folder.give_up()
            folder.moves += 1
            if folder.moves > MOVES:
                raise UncountableError(f"{error.message}, {folder.moves} times in a row") from None
            return []
        if done:
            folder.tally, folder.moves = None, 0
            held = sum(self._held(worker, now, told) for worker in self._workers)
            folder.room = folder.quota - tally.bytes - held
            if folder.room < 0:
                told += self._cut(_over(folder.quota, tally.bytes, held))
            elif not self._is_over():
                told += self._release()
        ended = time.monotonic()
        folder.cost += ended - now
        folder.next_at = ended + min(max(COUNT_SECONDS, COST_LIMIT * folder.cost), LONGEST_SECONDS)
        folder.hurry_at = ended + HURRIED_COST_LIMIT * folder.cost
        return told

    def _is_over(self) -> bool:
        """Whether more was written since the last count began than there was room for."""
        return sum(worker.since() for worker in self._workers) > self.folder.room

    def _hold(self) -> _Told:
        """Have the workers stand still until they are counted."""
        self.folder.held = True
        return [partial(worker.held, self.folder.held) for worker in self._workers if worker.writes.hold()]

    def _release(self) -> _Told:
        if not self.folder.held:
            return []
        self.folder.held = False
        for worker in self._workers:
            worker.writes.go_on()
        return [partial(worker.held, self.folder.held) for worker in self._workers]

    def _held(self, worker: _Worker, now: float, told: _Told) -> int:
        """Bytes that a worker holds beside its folder; where that was never to be seen, it is said once.

        Raises:
            UncountableError: it holds what cannot be counted, or hides what was to be seen before.
        """
        thorough = worker.wrote or now >= worker.thorough_at
        try:
            found = held_bytes(worker.pid, self.folder.path, worker.inbox, thorough=thorough)
        except HiddenError as error:
            if worker.seen:
                raise
            if not worker.told_unseen:
                worker.told_unseen = True
                told.append(partial(worker.unseen, error.message))
            return 0
        worker.seen = True
        if thorough:
            worker.thorough_at = now + THOROUGH_SECONDS
        return found

    def _cut(self, why: str) -> _Told:
        for worker in self._workers:
            worker.ended = True
        return [partial(worker.cut, why) for worker in self._workers]


def _over(quota: int, folder: int, held: int) -> str:
    if folder >= TOO_MANY:
        return f"disk quota: over {quota} bytes, or too many files, in its data folder"
    beside = f", {held} of them in files that it removed and still holds" if held else ""
    return f"disk quota: {folder + held} bytes in its data folder are over {quota}{beside}"
