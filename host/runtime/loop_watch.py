"""Watches the host's own loop: an inline plugin that blocks it is named, with the line where it stands.

Nothing can be done about it from here: code in the host's process cannot be stopped. It can be said whose it is.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

TICK_SECONDS: Final = 0.1
BLOCKED_SECONDS: Final = 0.5
"""A loop that has not turned for so long is blocked."""

_log = structlog.get_logger(__name__)


class LoopWatch:
    """Looks at the loop from a thread of its own, for as long as an inline plugin runs. One for a host."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}
        self._turned_at = 0.0
        self._thread: threading.Thread | None = None
        self._loop_thread = threading.get_ident()
        self._ticking: asyncio.TimerHandle | None = None

    @contextmanager
    def watching(self, plugin: str, folder: Path) -> Iterator[None]:
        """Watch while this plugin's code, which is in `folder`, is in the process; entered on the loop."""
        self._folders[plugin] = f"{folder}/"
        if self._ticking is None:
            self._tick()
            self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            del self._folders[plugin]
            if not self._folders and self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None

    def _tick(self) -> None:
        self._turned_at = time.monotonic()
        self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _watch(self) -> None:
        told_of = 0.0
        thread = self._thread
        while self._ticking is not None and self._thread is thread:
            time.sleep(TICK_SECONDS)
            turned_at = self._turned_at
            if time.monotonic() - turned_at >= BLOCKED_SECONDS and told_of != turned_at:
                told_of = turned_at  # once for each time that it is blocked
                try:
                    self._tell(sys._current_frames().get(self._loop_thread))  # noqa: SLF001 - documented, for debuggers
                except Exception:  # noqa: BLE001 - logged; the next time that it is blocked is told all the same
                    _log.exception("block_not_told")

    def _tell(self, frame: FrameType | None) -> None:
        stack = traceback.extract_stack(frame)
        for plugin, folder in tuple(self._folders.items()):
            own = [one for one in stack if one.filename.startswith(folder)]
            if own:
                _log.warning(
                    "loop_blocked",
                    plugin=plugin,
                    at=f"{own[-1].filename}:{own[-1].lineno}",
                    seconds=BLOCKED_SECONDS,
                    stack="".join(traceback.format_list(own)),
                )
                return
        _log.warning("loop_blocked", plugin=None, seconds=BLOCKED_SECONDS, stack="".join(traceback.format_list(stack)))
