"""What a worker writes for people to read: its log lines, and what the process puts on its standard error."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final

from plugin_sdk.resilience import TokenBucket
from plugin_sdk.worker.wire import LogLine

MAX_LINE: Final = 8192
"""Characters of a line's message, and of its level and its delivery."""
MAX_PENDING: Final = 2**20
"""Characters that wait to be handed on; more is dropped and counted, as what comes too fast is."""
PIPE_BYTES: Final = 64 * 1024
"""What is read of standard error at a time; the pipe holds no more."""
MAX_LAST_WORDS: Final = 16 * 1024
LINES_AT_ONCE: Final = 5
CHARACTERS_AT_ONCE: Final = MAX_LINE
"""Of these few lines; one that alone has more goes alone."""
LINES_PAUSE: Final = 0.005
"""Seconds between a few lines and the next few: writing a line takes the loop's time."""


class WorkerLines:
    """Hands on one worker's lines, so many a second and a few at a time.

    Args:
        log: Takes the lines, and how many were dropped.
        rate: Lines a second that are kept.
        broken: Called with why, where the worker does not keep to the protocol.
    """

    def __init__(self, log: Callable[[list[LogLine], int], None], rate: float, broken: Callable[[str], None]) -> None:
        self._log = log
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(rate, 2 * rate, self._loop.time)
        self._pending: list[LogLine] = []
        self._waiting = 0
        self._dropped = 0
        self._logging = False
        self._errors = -1
        self._last_words = b""

    def keep(self, lines: list[LogLine], dropped: int) -> None:
        """Hand on what the rate allows, and count the rest with the `dropped` that the worker counted itself."""
        kept = 0
        for line in lines:
            size = max(len(line.message), len(line.level), len(line.delivery))
            if size > MAX_LINE:
                self._broken(f"a log line of {size} characters; at most {MAX_LINE} are taken")
                return
            if self._waiting + _size(line) <= MAX_PENDING and self._bucket.take():
                self._pending.append(line)
                self._waiting += _size(line)
                kept += 1
        self._dropped += dropped + len(lines) - kept
        if not self._logging:
            self._logging = True
            self._hand_on()

    def _hand_on(self) -> None:
        count = size = 0
        for line in self._pending[:LINES_AT_ONCE]:
            if count and size + _size(line) > CHARACTERS_AT_ONCE:
                break
            count, size = count + 1, size + _size(line)
        lines, self._pending = self._pending[:count], self._pending[count:]
        self._waiting -= size
        dropped, self._dropped = self._dropped, 0
        if lines or dropped:
            self._log(lines, dropped)
        self._logging = bool(self._pending)
        if self._logging:
            self._loop.call_later(LINES_PAUSE, self._hand_on)

    # -- standard error: what C code writes there, and the stacks of a process that is about to end

    def listen_to(self, errors: int) -> None:
        """Hear what comes through this descriptor, the reading end of a non-blocking pipe."""
        self._errors = errors

    def hear_errors(self) -> None:
        """Read what was written since the last time, and log it."""
        try:
            found = os.read(self._errors, PIPE_BYTES)
        except OSError:
            return  # nothing there now
        if found:
            self._last_words = (self._last_words + found)[-MAX_LAST_WORDS:]
            now = time.time()
            lines = found.decode(errors="replace").splitlines()
            self.keep([LogLine(now, "warning", line[:MAX_LINE]) for line in lines if line.strip()], 0)

    @property
    def last_words(self) -> str:
        """The end of what the process wrote to its standard error."""
        return self._last_words.decode(errors="replace")


def _size(line: LogLine) -> int:
    return len(line.message) + len(line.level) + len(line.delivery)
