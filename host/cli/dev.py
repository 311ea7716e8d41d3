"""`busbar plugin dev`: run a plugin from its source, and again whenever a file is saved."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pdb  # noqa: T100 - the debugger is what this is about
import signal
import sys
import tempfile
import threading
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import watchfiles

from host.cli.output import USED_WRONGLY, command, fail

if TYPE_CHECKING:
    from host.dev_host import DevHost, DevOptions

MAX_WAITING: Final = 1000
"""Lines of standard input that wait for their turn."""


@command
def dev(
    project: Annotated[Path, typer.Argument(help="Folder of the plugin project.")] = Path(),
    inline: Annotated[
        bool, typer.Option("--inline", help="Run it in this process, without time limits: breakpoint() works.")
    ] = False,
    event: Annotated[
        list[Path] | None, typer.Option(help="A file with an event as JSON, published after each load.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The plugin's config, as JSON or TOML.")] = None,
    secret: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be given more than once.")] = None,
) -> None:
    """Run a plugin from its source in a small host of its own, and load it anew whenever a file is saved.

    Each line of standard input that is a JSON object is published as an event. Ctrl-C ends it.
    """
    from host.dev_host import DevOptions  # noqa: PLC0415 - most of the host, and only this command needs it
    from host.observe import logging as host_logging  # noqa: PLC0415 - as above

    options = DevOptions(inline=inline, config=_config(config), secrets=_secrets(secret or []))
    host_logging.configure("error", "console")
    if inline and "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _break
    with tempfile.TemporaryDirectory(prefix="busbar-dev-") as folder:
        asyncio.run(_run(Path(folder), project.resolve(), options, event or []))


async def _run(folder: Path, project: Path, options: DevOptions, events: list[Path]) -> None:
    from host.dev_host import DevHost  # noqa: PLC0415 - as above

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with DevHost.open(folder, options, _tell) as host, asyncio.TaskGroup() as group:
        # A debugger asks its questions on the terminal, so that is left to it; a pipe is not.
        tasks = [group.create_task(_watch(project, stop, saved := asyncio.Event()))]
        if not (options.inline and sys.stdin.isatty()):
            tasks.append(group.create_task(_publish_lines(host)))
        await _load(host, project, events)
        while not stop.is_set():
            await saved.wait()
            saved.clear()
            if not stop.is_set():
                _tell("saved: loading anew")
                await _load(host, project, events)
        _tell("ended")
        for task in tasks:
            task.cancel()


async def _watch(project: Path, stop: asyncio.Event, saved: asyncio.Event) -> None:
    """Set `saved` whenever a file that matters was, and at the end."""
    async for _ in watchfiles.awatch(project, stop_event=stop, watch_filter=_matters, debounce=200):
        saved.set()
    saved.set()


async def _load(host: DevHost, project: Path, events: list[Path]) -> None:
    if await host.load(project):
        for path in events:
            await host.publish(await asyncio.to_thread(path.read_bytes))


async def _publish_lines(host: DevHost) -> None:
    async for line in _lines():
        if line.strip():
            await host.publish(line)


async def _lines() -> AsyncIterator[str]:
    """The lines of standard input, read in a thread: it may be a file, a pipe or a terminal."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)

    def read() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()

    # A daemon thread: nothing can end one that waits for a terminal.
    threading.Thread(target=read, name="standard input", daemon=True).start()
    while True:
        yield await lines.get()


def _break() -> None:
    """As `breakpoint()` does, but Ctrl-C stays what ends the command; pdb would take it for itself."""
    here = inspect.currentframe()
    pdb.Pdb(nosigint=True).set_trace(None if here is None else here.f_back)


def _matters(_change: watchfiles.Change, path: str) -> bool:
    return path.endswith((".py", ".toml")) and "__pycache__" not in path


def _tell(text: str) -> None:
    print(text, flush=True)


def _config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", "config_unreadable", USED_WRONGLY, as_json=False)
    except ValueError as error:
        fail(f"{path} is neither JSON nor TOML: {error}", "config_invalid", USED_WRONGLY, as_json=False)
    if not isinstance(found, dict):
        fail(f"{path} must hold an object", "config_invalid", USED_WRONGLY, as_json=False)
    return found


def _secrets(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            fail(f"'{one}' is no secret: write NAME=VALUE", "secret_invalid", USED_WRONGLY, as_json=False)
        found[name] = value
    return found
