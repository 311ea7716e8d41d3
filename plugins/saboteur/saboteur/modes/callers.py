"""Hooks that are bad callers: what they do to a service must be no fault of the plugin that serves it."""

import asyncio
from typing import Any

from plugin_sdk import Context, HostError

VICTIM = "bystander-0.seen"


async def hurry(context: Context) -> None:
    """Call a service so often that any breaker would open, and wait a thousandth of a second for each answer."""
    for _ in range(20):
        await _call(context, {}, patience=0.001)


async def misuse(context: Context) -> None:
    """Call a service as often with arguments that it does not take."""
    codes = {await _call(context, {"sabotage": True}, patience=5.0) for _ in range(20)}
    if codes != {"arguments_invalid"}:
        raise RuntimeError(f"calls that do not fit ended with {', '.join(sorted(codes))}")


async def crowd(context: Context) -> None:
    """Call a service as often as the host lets one plugin, all at once."""
    await asyncio.gather(*(_call(context, {}, patience=5.0) for _ in range(60)))


async def _call(context: Context, arguments: dict[str, Any], *, patience: float) -> str:
    """The code of what came of a call; empty for an answer."""
    try:
        await context.call(VICTIM, arguments, timeout=patience)
    except HostError as error:
        return error.word
    return ""
