"""Seconds until a hundred sandboxed workers are ready, beside a hundred interpreters that import the SDK."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.measure import Figure
from benchmarks.workers import COUNT, workers

NAME: Final = "start-100"
ROOT: Final = Path(__file__).parents[1]


def run() -> Iterable[Figure]:
    """Measure once: both sides start as many at a time as the machine has processors, or more."""
    ours = uvloop.run(_start())
    return [Figure(NAME, ours, "s", '100 x python -c "import plugin_sdk"', _spawn())]


async def _start() -> float:
    async with workers() as made:
        began = time.perf_counter()
        await asyncio.gather(*(one.start() for one in made))
        return time.perf_counter() - began


def _spawn() -> float:
    command = [sys.executable, "-c", "import plugin_sdk"]
    at_once = os.cpu_count() or 1
    began = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(COUNT):
        if len(running) == at_once:
            running.pop(0).wait()
        running.append(subprocess.Popen(command, cwd=ROOT))
    for one in running:
        one.wait()
    return time.perf_counter() - began
