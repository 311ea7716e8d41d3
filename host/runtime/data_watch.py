"""The plugins' data on the disk, watched all in one thread of its own, so that none of them fills it.

How much a worker has written since its last count is one small file, read at every turn. Its data folder, and what
it holds beside it, is counted every half second, and at once where it has written more than there was room for. A
count is taken some entries at a time, so that a large folder delays no other plugin's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from host.runtime.data_folder import TOO_MANY, FolderMovedError, Tally, UncountableError
from host.runtime.held_files import HiddenError, held_bytes, written

TURN_SECONDS: Final = 0.1
"""Between two turns: a disk that takes 1 GiB in a second has taken some 100 MiB more than was seen."""
COUNT_SECONDS: Final = 0.5
"""Between two counts of a folder, where nothing hurries them."""
THOROUGH_SECONDS: Final = 5.0
"""Between two thorough looks at what a worker holds, where it has written nothing meanwhile."""
ENTRIES: Final = 2_000
"""Entries of one folder that are counted in one turn: some 5 ms."""
COST_LIMIT: Final = 20.0
"""A folder that takes long to count is counted so many times less often than it takes."""
HURRIED_COST_LIMIT: Final = 3.0
"""The same, where its workers write more than there is room for."""
LONGEST_SECONDS: Final = 10.0
"""And so often at least."""
MOVES: Final = 10
"""Counts in a row that may be spoilt by folders that move; more are no accident."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Worker:
    """One worker. `written` is what it had written when the last count began, `wrote` whether that was news."""

    pid: int
    inbox: int
    cut: Callable[[str], None]
    unseen: Callable[[str], None]
    written: int = 0
    wrote: bool = True
    thorough_at: float = 0.0
    seen: bool = False
    told_unseen: bool = False
    ended: bool = False

    def note_written(self) -> None:
        found = written(self.pid)
        self.wrote = found is not None and found != self.written
        self.written = self.written if found is None else found


@dataclass(slots=True)
class _Folder:
    """One data folder. `room` is what was left of the quota at the last count, `cost` the seconds that one took."""

    path: Path
    quota: int
    workers: dict[int, _Worker] = field(default_factory=dict)
    tally: Tally | None = None
    room: int = 0
    cost: float = 0.0
    next_at: float = 0.0
    hurry_at: float = 0.0
    moves: int = 0

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

    def add(
        self,
        folder: Path,
        quota: int,
        pid: int,
        inbox: int,
        *,
        cut: Callable[[str], None],
        unseen: Callable[[str], None],
    ) -> Callable[[], None]:
        """Watch what a worker keeps in `folder`, and beside it; answers how to stop watching.

        `inbox` is the host's descriptor of the socket to it. Workers that share a folder, as during an upgrade, share
        the quota, and are cut together. `cut` is called with why, at most once. `unseen` is called, at most once,
        where this machine does not let the host see which files the worker holds: then only the folder is counted.
        """
        self._number += 1
        number = self._number
        path = Path(os.path.realpath(folder))
        watched = self._folders.setdefault(path, _Folder(path, quota))
        watched.quota = quota
        watched.workers[number] = _Worker(pid, inbox, cut, unseen)

        def forget() -> None:
            watched.workers.pop(number, None)
            if not watched.workers and self._folders.get(path) is watched:
                del self._folders[path]

        return forget

    async def run(self) -> None:
        """Look, for ever."""
        loop = asyncio.get_running_loop()
        # A thread of its own: among the loop's shared ones it would wait behind whatever hangs there.
        thread = ThreadPoolExecutor(1, thread_name_prefix="data-watch")
        try:
            while True:
                looks = [_Look(folder, tuple(folder.workers.values())) for folder in self._folders.values()]
                for tell, why in await loop.run_in_executor(thread, _turn, looks):
                    tell(why)
                counting = any(look.folder.tally is not None for look in looks)
                await asyncio.sleep(0 if counting else TURN_SECONDS)
        finally:
            thread.shutdown(wait=False)


_Told = list[tuple[Callable[[str], None], str]]


def _turn(looks: list[_Look]) -> _Told:
    """Take each look as far as one turn goes; who is to be told what."""
    return [told for look in looks for told in look.take()]


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
            folder.next_at = folder.hurry_at = time.monotonic() + COUNT_SECONDS
            return []
        except Exception as error:  # noqa: BLE001 - logged; the others' quotas must not end by one folder
            _log.exception("data_not_counted", folder=folder.path.name)
            why = f"uncountable data: {type(error).__name__}: {error}"
        folder.give_up()
        return self._cut(why)

    def _go_on(self) -> _Told:
        folder, now = self.folder, time.monotonic()
        if folder.tally is None and now < folder.next_at and not self._hurried(now):
            return []
        tally = folder.tally or folder.begin(self._workers)
        try:
            done = tally.go_on(ENTRIES)
        except FolderMovedError as error:
            folder.give_up()
            folder.moves += 1
            if folder.moves > MOVES:
                raise UncountableError(f"{error.message}, {folder.moves} times in a row") from None
            return []
        told: _Told = []
        if done:
            folder.tally, folder.moves = None, 0
            held = sum(self._held(worker, now, told) for worker in self._workers)
            folder.room = folder.quota - tally.bytes - held
            if folder.room < 0:
                told += self._cut(_over(folder.quota, tally.bytes, held))
        ended = time.monotonic()
        folder.cost += ended - now
        folder.next_at = ended + min(max(COUNT_SECONDS, COST_LIMIT * folder.cost), LONGEST_SECONDS)
        folder.hurry_at = ended + HURRIED_COST_LIMIT * folder.cost
        return told

    def _hurried(self, now: float) -> bool:
        """Whether more was written since the last count began than there was room for."""
        if now < self.folder.hurry_at:
            return False
        since = sum((written(worker.pid) or worker.written) - worker.written for worker in self._workers)
        return since > self.folder.room

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
                told.append((worker.unseen, error.message))
            return 0
        worker.seen = True
        if thorough:
            worker.thorough_at = now + THOROUGH_SECONDS
        return found

    def _cut(self, why: str) -> _Told:
        for worker in self._workers:
            worker.ended = True
        return [(worker.cut, why) for worker in self._workers]


def _over(quota: int, folder: int, held: int) -> str:
    if folder >= TOO_MANY:
        return f"disk quota: over {quota} bytes, or too many files, in its data folder"
    beside = f", {held} of them in files that it removed and still holds" if held else ""
    return f"disk quota: {folder + held} bytes in its data folder are over {quota}{beside}"
