"""Saboteur: the test-bed for isolation. It does its work well until it is told to misbehave.

Events: `saboteur.work` with `{"key": …}` is work: it is written down, and fails as the standing mode says.
`saboteur.switch` with `{"mode": …}` sets the standing mode. `saboteur.command` with `{"mode": …}` misbehaves
once. The modes are the methods of `Misbehaviour`, and `ok`.
"""

import asyncio
import ctypes
import os
import sys
import time
from typing import Any

from pydantic import BaseModel

from plugin_sdk import Context, Event, Plugin, on_event, service


class Config(BaseModel):
    """`mode` is the standing mode; new config overrides what a switch has set."""

    mode: str = "ok"


class Misbehaviour:
    """Each method is a mode. Most do not return."""

    async def raise_(self, context: Context) -> None:
        """Raise an ordinary exception."""
        raise RuntimeError("sabotage")

    async def hang(self, context: Context) -> None:
        """Wait for ever, with the loop free."""
        await asyncio.Event().wait()

    async def block(self, context: Context) -> None:
        """Sleep for a minute without yielding: the loop stands still."""
        time.sleep(60)  # noqa: ASYNC251 - blocking is the point

    async def spin(self, context: Context) -> None:
        """Compute for ever without yielding."""
        while True:
            pass

    async def exit(self, context: Context) -> None:
        """End the process at once."""
        os._exit(3)

    async def sysexit(self, context: Context) -> None:
        """Raise SystemExit."""
        sys.exit(4)

    async def segfault(self, context: Context) -> None:
        """Read address zero."""
        ctypes.string_at(0)

    async def leak(self, context: Context) -> None:
        """Take memory until there is none."""
        hoard = []
        while True:
            hoard.append(bytearray(4 * 2**20))
            await asyncio.sleep(0.01)

    async def flood(self, context: Context) -> None:
        """Emit a thousand events."""
        for number in range(1000):
            await context.emit("saboteur.flood", data={"number": number})

    async def chatter(self, context: Context) -> None:
        """Log ten thousand lines."""
        for number in range(10_000):
            context.log.info("chatter %d", number)

    async def slow(self, context: Context) -> None:
        """Take two seconds, politely."""
        await asyncio.sleep(2)


MODES = tuple(name.rstrip("_") for name in vars(Misbehaviour) if not name.startswith("_"))


class Saboteur(Plugin):
    """Keeps the standing mode in memory, so that a restart makes it well; the config's mode is where it begins."""

    Config = Config

    def __init__(self) -> None:
        super().__init__()
        self._mode = "ok"

    async def start(self, context: Context) -> None:
        """Begin with the configured mode."""
        self._mode = context.config.mode

    async def config_changed(self, config: Any, context: Context) -> None:
        """Take the configured mode."""
        self._mode = config.mode

    @on_event("saboteur.work", first_retry=0.2, longest_retry=5.0, attempts=100)
    async def work(self, event: Event, context: Context) -> None:
        """Misbehave as the standing mode says, else write down what was done."""
        await _misbehave(self._mode, context)
        await context.kv.set(f"handled/{event.data['key']}", event.time)

    @on_event("saboteur.command", attempts=2, first_retry=0.2)
    async def command(self, event: Event, context: Context) -> None:
        """Misbehave once."""
        await _misbehave(event.data["mode"], context)

    @on_event("saboteur.switch")
    async def switch(self, event: Event) -> None:
        """Set the standing mode."""
        self._mode = event.data["mode"]

    @service
    async def handled(self, context: Context) -> dict[str, Any]:
        """The keys of all the work that was done."""
        keys: list[str] = []
        while page := await context.kv.keys("handled/", after=keys[-1] if keys else ""):
            keys += page
        return {"keys": [key.removeprefix("handled/") for key in keys], "mode": self._mode}


async def _misbehave(mode: str, context: Context) -> None:
    if mode == "ok":
        return
    if mode not in MODES:
        raise ValueError(f"no mode '{mode}': there are {', '.join(MODES)}")
    await getattr(Misbehaviour(), "raise_" if mode == "raise" else mode)(context)
