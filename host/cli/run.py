"""`busbar run`: the life of the daemon's process, from its settings to its exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Final

import structlog
import uvloop

from host.daemon import Daemon, running
from host.errors import BusbarError
from host.observe import logging as host_logging
from host.settings import Settings
from plugin_sdk.clock import SystemClock

COLLECT_AFTER: Final = 50_000
"""Objects made, less those freed, before the garbage collector looks for cycles among the young ones."""

_log = structlog.get_logger("daemon")


def main(config: Path | None) -> int:
    """Run the daemon until SIGTERM or SIGINT; its exit code."""
    settings = Settings.load(config, os.environ)
    host_logging.configure(settings.log.level, settings.log.format)
    try:
        return uvloop.run(_run(settings))
    except BusbarError as error:
        _log.error("not_started", code=error.word, reason=error.message)
        print(f"busbar: {error.message}", file=sys.stderr)
        return 1


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with running(settings, SystemClock()) as daemon:
            # What start-up made lives as long as the host; the collector need not look at it again and again,
            # and what an event makes is gone before a collection could find it.
            gc.collect()
            gc.freeze()
            gc.set_threshold(COLLECT_AFTER)
            _announce(daemon)
            await stop.wait()
            _log.info("stopping")
    except OSError as error:
        print(f"busbar: {error}", file=sys.stderr)
        return 1
    _log.info("stopped")
    return 0


def _announce(daemon: Daemon) -> None:
    print(f"Busbar is at {daemon.address}", flush=True)
    if daemon.administrator_token is not None:
        print(f"administrator token: {daemon.administrator_token}", flush=True)
