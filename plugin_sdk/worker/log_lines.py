"""What a plugin writes for people to read, as lines of its log: what it logs, and what it prints."""

from __future__ import annotations

import asyncio
import contextvars
import io
import logging
import math
import time
from collections.abc import Callable
from typing import Final

from plugin_sdk.worker.outcomes import text
from plugin_sdk.worker.wire import LAST_INSTANT, MAX_LEVEL, MAX_LINE, LogLine, LogLines

LINES_PER_SECOND: Final = 500
_FORMATTER: Final = logging.Formatter("%(message)s")

delivery_id: contextvars.ContextVar[str] = contextvars.ContextVar("busbar_delivery", default="")
"""The delivery that the current hook handles; its lines carry it."""


def line_of(record: logging.LogRecord) -> LogLine:
    """A record as a line. A record is the plugin's object: whatever it holds, the line is bounded and can be sent."""
    try:
        message = _FORMATTER.format(record)
    except Exception as error:  # noqa: BLE001 - arguments that do not fit their text must not fail the hook that logs
        message = f"{text(record.msg)} (its arguments do not fit: {text(error)})"
    at = record.created if isinstance(record.created, int | float) else math.nan
    return LogLine(
        at if 0 <= at <= LAST_INSTANT else time.time(),
        text(record.levelname, MAX_LEVEL).lower(),
        text(message),
        delivery_id.get(),
    )


class LogHandler(logging.Handler):
    """Sends log lines to the host, so many a second; more are counted and dropped.

    Args:
        send: Takes each message, on the loop.
        held: Whether the host does not read now: then lines are dropped instead of kept.
    """

    def __init__(self, send: Callable[[LogLines], None], held: Callable[[], bool]) -> None:
        super().__init__()
        self._send = send
        self._held = held
        self._second = 0
        self._sent = 0
        self._dropped = 0
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line; may be called from a hook's thread."""
        line = line_of(record)
        second = int(line.at)
        if second != self._second:
            self._second, self._sent = second, 0
        if self._sent >= LINES_PER_SECOND or self._held():
            self._dropped += 1
            return
        self._sent += 1
        self._loop.call_soon_threadsafe(self._send, LogLines([line]))

    def tell_of_dropped(self) -> None:
        """Say how many lines were dropped, where no later line has said so."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._send(LogLines([], dropped))


class Printed(io.TextIOBase):
    """What a plugin prints, as lines of its log."""

    def __init__(self, handler: LogHandler, level: int) -> None:
        super().__init__()
        self._handler = handler
        self._level = level
        self._line = ""

    def writable(self) -> bool:
        """Text can be written."""
        return True

    def write(self, text: str) -> int:
        """Log every whole line."""
        *lines, self._line = (self._line + text).split("\n")
        self._line = self._line[-MAX_LINE:]
        for line in lines:
            record = logging.LogRecord("print", self._level, "", 0, line, None, None)
            record.created = time.time()
            self._handler.emit(record)
        return len(text)
