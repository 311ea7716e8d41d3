"""A worker that keeps a processor to itself goes last: it may compute, but not in the others' way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import structlog

GREEDY_SHARE: Final = 0.9
"""Of one processor; a worker that takes more for `GREEDY_SECONDS` goes last from then on."""
GREEDY_SECONDS: Final = 1.0
LAST: Final = 19
"""The lowest priority of nice(1)."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")

_log = structlog.get_logger(__name__)


class CpuWatch:
    """Watches the processor time of one worker.

    Args:
        plugin: Whose worker it is.
        pid: The worker.
    """

    def __init__(self, plugin: str, pid: int) -> None:
        self._plugin = plugin
        self._pid = pid
        self._since = 0.0
        self._used = 0.0
        self.last = False
        """Whether the worker goes last."""

    def look(self, now: float) -> None:
        """Look at the worker, at the time `now` in seconds; call it every half second or so."""
        if self.last:
            return
        used = _used(self._pid)
        if used is None or now - self._since < GREEDY_SECONDS:
            return
        share = (used - self._used) / (now - self._since) if self._since else 0.0
        self._since, self._used = now, used
        if share > GREEDY_SHARE:
            self.last = True
            _go_last(self._pid)
            _log.warning("worker_goes_last", plugin=self._plugin, processor_share=round(share, 2))


def _used(pid: int) -> float | None:
    """Seconds of processor time, in user mode and in the kernel (proc(5), fields 14 and 15)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError, ValueError):
        return None  # it has just ended, or there is no /proc here


def _go_last(pid: int) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        os.setpriority(os.PRIO_PGRP, pid, LAST)
    # Where the kernel groups by session (sched(7), "The autogroup feature"), the group's priority is what counts.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(LAST), encoding="ascii")
