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
THREADS_SECONDS: Final = 5.0
"""How long threads have to end once everything is stopped; what they still do is nothing that anyone waits for."""

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
    stop, started = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    life = asyncio.create_task(_live(settings, stop, started), name="life")

    def asked_to_stop() -> None:
        if not stop.is_set() and not started.is_set():
            life.cancel()  # there is nothing to drain yet: what stands is taken down, whatever the start waits for
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    try:
        code = await life
    except OSError as error:
        print(f"busbar: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        code = 0
    _log.info("stopped", exit_code=code)
    await _leave_threads(loop, code)
    return code


async def _live(settings: Settings, stop: asyncio.Event, started: asyncio.Event) -> int:
    """Run until stopped; 0, or 1 where the host was not fit for work any more."""
    async with running(settings, SystemClock()) as daemon:
        started.set()
        # What start-up made lives as long as the host; the collector need not look at it again and again,
        # and what an event makes is gone before a collection could find it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        _announce(daemon)
        await stop.wait()
        unfit = [one.name for one in daemon.trouble() if one.unfit]
        _log.info("stopping")
    if unfit:
        _log.error("stopped_unfit", parts=unfit)
    return 1 if unfit else 0


async def _leave_threads(loop: asyncio.AbstractEventLoop, code: int) -> None:
    """End the process although a thread waits for a disk that does not answer: Python would wait for it for ever."""
    try:
        async with asyncio.timeout(THREADS_SECONDS):
            await loop.shutdown_default_executor()
    except TimeoutError:
        _log.warning("threads_left", reason="a file or a disk does not answer")
        sys.stdout.flush()
        os._exit(code)


def _announce(daemon: Daemon) -> None:
    print(f"Busbar is at {daemon.address}", flush=True)
    if daemon.administrator_token is not None:
        print(f"administrator token: {daemon.administrator_token}", flush=True)
