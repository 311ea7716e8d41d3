"""Hooks that ask more of the host than it gives."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from plugin_sdk import Context


async def flood(context: Context) -> None:
    """Emit events as fast as the host takes them, many at once, until it refuses."""
    await _at_once(context.emit("saboteur.flood", data={"number": number}) for number in range(5000))


async def hoard(context: Context) -> None:
    """Write keys as fast as the host takes them, until it refuses."""
    await _at_once(context.kv.set(f"hoard/{number % 10}", "x" * 1000) for number in range(5000))


async def chatter(context: Context) -> None:
    """Log ten thousand lines; the worker's loop turns meanwhile, or it would be ended for that first."""
    for number in range(10_000):
        context.log.info("chatter %d", number)
        if number % 100 == 0:
            await asyncio.sleep(0)


async def _at_once(requests: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Make all requests at once, until the first is refused."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
