"""Hooks that fill the host's memory and its log: few messages, large ones."""

import asyncio
import contextlib
import os
from typing import Any

import msgspec

from plugin_sdk import Context, HostError
from plugin_sdk.worker.wire import Ask, LogLine, LogLines
from saboteur.modes.requests import _at_once
from saboteur.modes.wire import _socket

EVENT = "x" * (900 * 1024)
NAME = "n" * 2**21


async def swell(context: Context) -> None:
    """Emit large events, which its own slow subscription takes, as fast as they are taken, until none is any more."""
    while True:
        try:
            await context.emit("saboteur.swell", data=EVENT)
        except HostError as error:
            if error.word != "rate_limited":
                raise
            await asyncio.sleep(0.05)


async def gush(context: Context) -> None:
    """Emit large events, many at once, until the host refuses one."""
    await _at_once(context.emit("saboteur.gush", data=EVENT) for _ in range(8))


async def pour(context: Context) -> None:
    """Write large values, many at once, until the host refuses one."""
    await _at_once(context.kv.set(f"pour/{number % 10}", "x" * 250_000) for number in range(30))


async def verbose(context: Context) -> None:
    """Send log lines of which every field has megabytes, past the SDK."""
    field = "x" * (7 * 2**20 // 3)
    await _write_for_ever(_frame(LogLines([LogLine(0.0, field, field, field)])))


async def levels(context: Context) -> None:
    """Send log lines whose level alone has megabytes, past the SDK."""
    await _write_for_ever(_frame(LogLines([LogLine(0.0, "x" * (7 * 2**20), "short")])))


async def babble(context: Context) -> None:
    """Log lines of the longest message that is taken, as many as there is time for."""
    while True:
        for _ in range(50):
            context.log.info("\N{PILE OF POO}" * 8192)
        await asyncio.sleep(0.01)


async def names(context: Context) -> None:
    """Ask for what is not granted, by names of half a megabyte and of two, each another."""
    host = context._session.host  # noqa: SLF001 - past the SDK, which looks at names itself
    for number in range(8):
        with contextlib.suppress(HostError):
            await context.emit(f"{NAME[: 2**19]}.{number}")
        with contextlib.suppress(HostError):
            await host.call(f"{NAME}.{number}", b"{}", 1.0, [], "")
        with contextlib.suppress(HostError):
            await host.kv_set(f"{NAME}.{number}", b"1")
    await context.call(f"{NAME}.last")


async def deaf(context: Context) -> None:
    """Ask for large values again and again, past the SDK, and never read an answer."""
    await context.kv.set("deaf", "x" * 250_000)
    loop: Any = asyncio.get_running_loop()
    loop._remove_reader(_socket())  # noqa: SLF001 - an attacker knows no manners
    for number in range(100_000, 200_000):
        arguments = msgspec.Raw(msgspec.msgpack.encode(["deaf"]))
        await _write(_frame(Ask(number, "kv_get", arguments)))
        await asyncio.sleep(0.0005)


def _frame(message: object) -> bytes:
    """One message as a frame of the wire."""
    payload = msgspec.msgpack.encode([message])
    return len(payload).to_bytes(4, "big") + payload


async def _write_for_ever(frame: bytes) -> None:
    while True:
        await _write(frame)


async def _write(frame: bytes) -> None:
    """Write a whole frame into the socket to the host, as fast as it takes it."""
    descriptor, sent = _socket(), 0
    while sent < len(frame):
        with contextlib.suppress(BlockingIOError):
            sent += os.write(descriptor, frame[sent : sent + 2**18])
        await asyncio.sleep(0)
