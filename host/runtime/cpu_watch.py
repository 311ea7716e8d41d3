"""Workers that keep a processor to themselves go last: they may compute, but not in the others' way.

All are watched in one thread of its own, several times a second: what a neighbour's events wait for is the time until
the greedy one is noticed. Who takes less again comes back, where the host may give a place back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

TURN_SECONDS: Final = 0.1
COST_LIMIT: Final = 50.0
"""A turn that takes long, because there are many workers, is taken so many times less often than it takes."""
GREEDY_SHARE: Final = 0.7
"""Of one processor; a worker that takes more for a while goes last from then on. Whoever spins takes that, unless many
others do as much."""
GREEDY_SECONDS: Final = 0.25
"""That while, where a worker that wants less again comes back."""
GREEDY_FOR_GOOD_SECONDS: Final = 1.0
"""That while, where the host may not give a place back: then one long computation must not be enough."""
MODEST_SHARE: Final = 0.5
MODEST_SECONDS: Final = 1.0
"""Who was found ready to compute in fewer than `MODEST_SHARE` of the looks of so long a time comes back. What it takes
would say nothing: who goes last takes little, however much it wants."""
MAX_THREADS: Final = 256
"""Threads that are looked at for one that is ready."""
LAST: Final = 19
"""The lowest priority of nice(1)."""
_CAP_SYS_NICE: Final = 1 << 23
_TICKS: Final = os.sysconf("SC_CLK_TCK")

_log = structlog.get_logger(__name__)


class Place:
    """Where one worker stands, by how much of a processor it takes: a value and a rule, which touch nothing.

    Args:
        greedy_seconds: For how long it takes too much before it goes last.
        comes_back: Whether it is ever first again.

    Attributes:
        last: Whether it goes last.
        times: How often it has come to that.
        share: What it took of a processor, or how often it was ready, when that was decided.
    """

    def __init__(self, greedy_seconds: float, *, comes_back: bool) -> None:
        self._greedy_seconds = greedy_seconds
        self._comes_back = comes_back
        self._since: float | None = None
        self._used = 0.0
        self._looks = self._ready = 0
        self.last = False
        self.times = 0
        self.share = 0.0

    def look(self, used: float, ready: Callable[[], bool], now: float) -> bool:
        """Note that it has `used` so many seconds of processors at the time `now`; whether its place has changed.

        `ready` tells, where it is asked, whether one of its threads computes now or would if it could.
        """
        if self._since is None:
            self._begin(used, now)
            return False
        if self.last:
            if not self._comes_back:
                return False
            self._looks += 1
            self._ready += ready()
        span = now - self._since
        if span < (MODEST_SECONDS if self.last else self._greedy_seconds):
            return False
        self.share = self._ready / self._looks if self.last else (used - self._used) / span
        change = self.share < MODEST_SHARE if self.last else self.share > GREEDY_SHARE
        self._begin(used, now)
        if change:
            self.last = not self.last
            self.times += self.last
        return change

    def _begin(self, used: float, now: float) -> None:
        self._since, self._used = now, used
        self._looks = self._ready = 0


@dataclass(frozen=True, slots=True)
class _Worker:
    plugin: str
    pid: int
    place: Place
    first: int

    def look(self, now: float) -> None:
        used = _used(self.pid) if _has_its_own_session(self.pid) else None
        if used is None or not self.place.look(used, partial(_is_ready, self.pid), now):
            return
        _put(self.pid, LAST if self.place.last else self.first)
        share = round(self.place.share, 2)
        if not self.place.last:
            _log.debug("worker_goes_last_no_more", plugin=self.plugin, processor_share=share)
        elif self.place.times == 1:
            _log.warning("worker_goes_last", plugin=self.plugin, processor_share=share)
        else:  # one that computes now and then would fill the log
            _log.debug("worker_goes_last", plugin=self.plugin, processor_share=share, times=self.place.times)


class CpuWatch:
    """Watches the processor time of all workers. One for a host."""

    def __init__(self) -> None:
        self._workers: dict[int, _Worker] = {}
        self._number = 0
        self._comes_back = may_raise()
        self._first = os.getpriority(os.PRIO_PROCESS, 0)

    def add(self, plugin: str, pid: int) -> Callable[[], None]:
        """Watch a worker; answers how to stop watching."""
        self._number += 1
        number = self._number
        seconds = GREEDY_SECONDS if self._comes_back else GREEDY_FOR_GOOD_SECONDS
        self._workers[number] = _Worker(plugin, pid, Place(seconds, comes_back=self._comes_back), self._first)

        def forget() -> None:
            self._workers.pop(number, None)

        return forget

    async def run(self) -> None:
        """Look, for ever."""
        loop = asyncio.get_running_loop()
        # A thread of its own: among the loop's shared ones it would wait behind whatever hangs there.
        thread = ThreadPoolExecutor(1, thread_name_prefix="cpu-watch")
        try:
            while True:
                cost = await loop.run_in_executor(thread, _turn, tuple(self._workers.values()))
                await asyncio.sleep(max(TURN_SECONDS, COST_LIMIT * cost))
        finally:
            thread.shutdown(wait=False)


def _turn(workers: tuple[_Worker, ...]) -> float:
    """Look at each; the seconds that it took."""
    began = time.thread_time()
    for worker in workers:
        worker.look(time.monotonic())
    return time.thread_time() - began


def may_raise() -> bool:
    """Whether this process may give a worker a better place than it has (capabilities(7), CAP_SYS_NICE)."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    _, found, rest = text.partition("CapEff:")
    return bool(found) and bool(int(rest.split(maxsplit=1)[0], 16) & _CAP_SYS_NICE)


def _used(pid: int) -> float | None:
    """Seconds of processor time, in user mode and in the kernel (proc(5), fields 14 and 15)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError, ValueError):
        return None  # it has just ended, or there is no /proc here


def _is_ready(pid: int) -> bool:
    """Whether one of its threads is running, or waits for nothing but a processor (proc(5), field 3)."""
    with contextlib.suppress(OSError):
        for thread in islice(Path(f"/proc/{pid}/task").iterdir(), MAX_THREADS):
            with contextlib.suppress(OSError):  # it has just ended
                if (thread / "stat").read_bytes().rpartition(b")")[2].split(maxsplit=1)[0] == b"R":
                    return True
    return False


def _has_its_own_session(pid: int) -> bool:
    """Whether it has: one that was just forked is in the host's session still, which must not go last with it."""
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False  # it has just ended


def _put(pid: int, priority: int) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        os.setpriority(os.PRIO_PGRP, pid, priority)
    # Where the kernel groups by session (sched(7), "The autogroup feature"), the group's priority is what counts.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(priority), encoding="ascii")
