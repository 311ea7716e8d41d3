"""Saboteur: the test-bed for isolation. It does its work well until it is told to misbehave.

Events: `saboteur.work` with `{"key": …}` is work: it is written down, and fails as the standing mode says.
`saboteur.switch` with `{"mode": …}` sets the standing mode. `saboteur.command` with `{"mode": …}` misbehaves
once. The modes are in `saboteur.modes`, and `ok`. The service `attempt` tries what a sandbox refuses, of
`saboteur.attempts`. The route `answer/{name}` gives one of `saboteur.answers`.
"""

import asyncio
from typing import Any

import msgspec
from pydantic import BaseModel

from plugin_sdk import Context, Event, Plugin, Request, Response, on_event, service
from saboteur.answers import ANSWERS
from saboteur.attempts import ATTEMPTS
from saboteur.modes import MODES


class Config(BaseModel):
    """`mode` is the standing mode; new config overrides what a switch has set."""

    mode: str = "ok"


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

    @on_event("saboteur.swell", in_flight=1)
    async def digest(self, event: Event) -> None:
        """Take a while over each of the events with which it swells."""
        await asyncio.sleep(1.5)

    @service
    async def modes(self) -> list[str]:
        """The names of all the ways to misbehave."""
        return list(MODES)

    @service
    async def bulky(self, lists: int) -> Any:
        """So many empty lists: an answer that takes many times its bytes in memory once it is read."""
        return msgspec.Raw(b"[" + b"[]," * lists + b"[]]")

    @service
    async def attempt(self, what: str, target: str = "") -> dict[str, str]:
        """Try one of the attempts: what it `got`, or the exception that it `met`."""
        if what not in ATTEMPTS:
            raise ValueError(f"no attempt '{what}': there are {', '.join(ATTEMPTS)}")
        try:
            return {"got": ATTEMPTS[what](target), "met": ""}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return {"got": "", "met": f"{type(error).__name__}: {error}"}

    async def handle_request(self, request: Request, context: Context) -> Response:
        """Give the answer that the path names."""
        return ANSWERS.get(request.path.removeprefix("/answer/"), Response(404))

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
    await MODES[mode](context)
