"""What a cancelled caller still waits for: work that would go on behind its back, or that must not stay half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger(__name__)


async def to_the_end(work: Awaitable[T]) -> T:
    """What the work answers. Who is cancelled meanwhile waits for its end, and is cancelled then.

    A thread writes on whoever waits for it, so the folder that it writes into cannot be removed before.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # whoever cancels once more waits, too
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("cancelled_work_failed", error=str(error))
        raise
