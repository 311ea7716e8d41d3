"""Structured logs: one JSON object a line, or readable lines on a terminal; and each plugin's last lines."""

from __future__ import annotations

import io
import logging
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from plugin_sdk.worker.wire import LogLine

KEPT_LINES: Final = 1000
"""Lines kept in memory for each plugin, and what they may weigh together; the oldest make room."""
KEPT_BYTES: Final = 2**20
MAX_MESSAGE: Final = 8192
MAX_DELIVERY: Final = 500

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_log = structlog.get_logger("plugin")


def configure(level: str, form: str) -> None:
    """Set up structlog and the standard library's logging for the whole process.

    What is bound with `structlog.contextvars` (trace id, plugin, event, delivery) is on every line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Lines quote what strangers sent: text that the terminal has no letters for must not fail what is logged.
        sys.stdout.reconfigure(errors="backslashreplace")
    readable = form == "console" or (form == "auto" and sys.stdout.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    final: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(_LEVELS[level], logging.WARNING), force=True)


@dataclass(frozen=True, slots=True)
class KeptLine:
    """One line of a plugin's log; `at` is in seconds since the epoch."""

    at: float
    level: str
    message: str
    delivery: str


class _Tail:
    """The last lines of one plugin."""

    def __init__(self) -> None:
        self.lines: deque[KeptLine] = deque()
        self._bytes = 0

    def add(self, line: KeptLine) -> None:
        """Keep a line, and let go of the oldest where there are too many or too long ones."""
        self.lines.append(line)
        self._bytes += _size(line)
        while len(self.lines) > KEPT_LINES or (self._bytes > KEPT_BYTES and len(self.lines) > 1):
            self._bytes -= _size(self.lines.popleft())


def _size(line: KeptLine) -> int:
    """Bytes of memory: a text with one wide character has four for each."""
    return sys.getsizeof(line.message) + sys.getsizeof(line.delivery)


def _shown(message: str) -> str:
    """The text with a mark in the place of what is not printed; that nearly all text has none is seen at once."""
    if message.replace("\n", " ").isprintable():
        return message
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in message)


class PluginLogs:
    """The last lines that each plugin logged or printed; they go to the host's log, too."""

    def __init__(self) -> None:
        self._tails: dict[str, _Tail] = {}

    def sink(self, plugin: str) -> Callable[[list[LogLine], int], None]:
        """Where a runtime of this plugin hands its lines, and how many it had to drop."""
        tail = self._tails.setdefault(plugin, _Tail())

        def take(found: list[LogLine], dropped: int) -> None:
            for line in found:
                level = line.level if line.level in _LEVELS else "warning"
                message = line.message[:MAX_MESSAGE]
                text = _shown(message)
                delivery = line.delivery[:MAX_DELIVERY]
                tail.add(KeptLine(line.at, level, text, delivery))
                bound = {"delivery": delivery} if delivery else {}
                _log.log(_LEVELS[level], "plugin_log", plugin=plugin, message=text, **bound)
            if dropped:
                _log.warning("plugin_log_dropped", plugin=plugin, lines=dropped)

        return take

    def tail(self, plugin: str, limit: int) -> list[KeptLine]:
        """The last lines, the oldest first."""
        found = self._tails.get(plugin)
        return [] if found is None else list(found.lines)[-limit:]

    def forget(self, plugin: str) -> None:
        """Drop the lines of a plugin that is gone."""
        self._tails.pop(plugin, None)
