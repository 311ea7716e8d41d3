"""The exit code of the daemon tells whether it was fit for work when it was stopped."""

import asyncio
import contextlib

import pytest

from host.cli import run
from host.daemon import Daemon
from host.observe.background_parts import PartTrouble
from host.settings import Settings

DIED = PartTrouble("data watch", "OSError: no", 1, 0.0, unfit=False, next_action="")
UNFIT = PartTrouble("writer", "SystemError: lost", 1, 0.0, unfit=True, next_action="restart the daemon")


@pytest.mark.parametrize(("trouble", "code"), [((), 0), ((DIED,), 0), ((DIED, UNFIT), 1)])
async def test_a_host_that_was_not_fit_any_more_ends_with_a_code_that_says_so(monkeypatch, trouble, code):
    @contextlib.asynccontextmanager
    async def running(_settings, _clock):
        yield Daemon("http://127.0.0.1:1", None, lambda: trouble)

    monkeypatch.setattr(run, "running", running)
    for name in ("collect", "freeze", "set_threshold"):
        monkeypatch.setattr(run.gc, name, lambda *_: None)
    stop, started = asyncio.Event(), asyncio.Event()
    stop.set()
    assert await run._live(Settings(), stop, started) == code
    assert started.is_set()
