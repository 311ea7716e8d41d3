"""Hooks that end with, print or say what no one can write down: values that are no numbers, text that is no text."""

import asyncio
import logging

from plugin_sdk import Context, Retry


async def nan(context: Context) -> None:
    """Ask to be tried again after a time that is no number, past the check of the SDK."""
    verdict = Retry()
    verdict.after = float("nan")
    raise verdict


async def soon(context: Context) -> None:
    """Give the reason in the place of the time, as one does by mistake."""
    raise Retry("soon")  # type: ignore[arg-type] # the mistake is the point


async def surrogate(context: Context) -> None:
    """Print half a character, log one, and raise an exception about it."""
    print("\udcff")  # noqa: T201 - printing is the point
    context.log.warning("\udcff")
    raise ValueError("\udcff")


async def unspeakable(context: Context) -> None:
    """Raise an exception that cannot be looked at."""

    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise LookupError("no words")

    raise UnspeakableError


async def cancelled(context: Context) -> None:
    """Raise the cancellation that nobody asked for."""
    raise asyncio.CancelledError


async def record(context: Context) -> None:
    """Log a record whose time, level and arguments are nonsense, and go on."""
    context.log.handle(logging.makeLogRecord({"msg": "%d", "args": ("x",), "levelname": None, "levelno": 30}))
    context.log.handle(logging.makeLogRecord({"msg": "late", "created": float("inf"), "args": None, "levelno": 30}))
