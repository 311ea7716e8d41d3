"""The average proportional set size of a hundred idle workers, beside that of an interpreter with the SDK."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.measure import Figure
from benchmarks.workers import workers

NAME: Final = "memory-100"
ROOT: Final = Path(__file__).parents[1]
SETTLE_SECONDS: Final = 3.0
MIB: Final = 2**20


def run() -> Iterable[Figure]:
    """Measure once, when all workers have been idle for a while."""
    return [Figure(NAME, uvloop.run(_ours()), "MiB", "an interpreter that has imported the SDK", _theirs())]


async def _ours() -> float:
    async with workers() as made:
        await asyncio.gather(*(one.start() for one in made))
        await asyncio.sleep(SETTLE_SECONDS)
        return statistics.mean(_proportional(one.snapshot().pid or 0) for one in made)


def _theirs() -> float:
    command = [sys.executable, "-c", "import plugin_sdk; print(flush=True); input()"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = _proportional(process.pid)
        process.kill()
    return found


def _proportional(pid: int) -> float:
    """Proportional set size in MiB: private pages, and of each shared one the part that falls to this process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / MIB
    raise ValueError(f"process {pid} has no memory")
