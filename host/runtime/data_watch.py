"""The plugins' data folders, measured all in one thread, so that none of them fills the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from host.runtime.sandbox import usage

LOOK_SECONDS: Final = 0.5
COST_LIMIT: Final = 20.0
"""A folder that takes long to measure is measured so many times less often than it takes."""


@dataclass(slots=True)
class _Watched:
    folder: Path
    quota: int
    full: Callable[[int], None]
    next_at: float = field(default=0.0)


class DataWatch:
    """Tells those who asked when a folder holds more than its quota. One for a host."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._number = 0

    def add(self, folder: Path, quota: int, full: Callable[[int], None]) -> Callable[[], None]:
        """Call `full` with the bytes, once, when `folder` holds more than `quota`; answers how to stop watching."""
        self._number += 1
        number = self._number
        self._watched[number] = _Watched(folder, quota, full)

        def forget() -> None:
            self._watched.pop(number, None)

        return forget

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            for number, found in await asyncio.to_thread(self._measure, tuple(self._watched.items())):
                watched = self._watched.pop(number, None)
                if watched is not None:
                    watched.full(found)
            await asyncio.sleep(LOOK_SECONDS)

    @staticmethod
    def _measure(watched: tuple[tuple[int, _Watched], ...]) -> list[tuple[int, int]]:
        full: list[tuple[int, int]] = []
        for number, one in watched:
            began = time.monotonic()
            if began < one.next_at:
                continue
            found = usage(one.folder)
            ended = time.monotonic()
            one.next_at = ended + COST_LIMIT * (ended - began)
            if found > one.quota:
                full.append((number, found))
        return full
