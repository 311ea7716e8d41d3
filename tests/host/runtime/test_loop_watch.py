"""An inline plugin that blocks the host's loop is named, with its own line."""

import asyncio
import threading

import pytest
import structlog

from host.runtime import loop_watch
from host.runtime.inline import InlineRuntime
from host.runtime.loop_watch import LoopWatch
from plugin_sdk.calls import ServiceCall

BLOCKING = """
import time
from plugin_sdk import Plugin, service

class Blocking(Plugin):
    @service
    async def block(self, seconds):
        \"\"\"Block the loop.\"\"\"
        time.sleep(seconds)  # here it stands
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(loop_watch, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(loop_watch, "BLOCKED_SECONDS", 0.05)


async def test_who_blocks_the_loop_is_named_once_with_the_line(launch, host, quick, tmp_path):
    (tmp_path / "release" / "blocking.py").write_text(BLOCKING)
    with structlog.testing.capture_logs() as logged:
        one = InlineRuntime(launch("blocking:Blocking"), host, lambda *_: None, LoopWatch())
        await one.start()
        await one.call(ServiceCall("block", {"seconds": 0.3}))
        async with asyncio.timeout(5):
            while not any(line["event"] == "loop_blocked" for line in logged):
                await asyncio.sleep(0.01)
        await one.call(ServiceCall("block", {"seconds": 0}))
        await one.stop(1.0, 1.0)
    (line,) = [line for line in logged if line["event"] == "loop_blocked"]
    assert line["plugin"] == "example"
    assert line["at"].endswith("release/blocking.py:9")
    assert "here it stands" in line["stack"]


async def test_the_thread_ends_with_the_last_inline_plugin(launch, host, quick):
    watch = LoopWatch()
    one = InlineRuntime(launch(), host, lambda *_: None, watch)
    await one.start()
    assert any(thread.name == "loop watch" for thread in threading.enumerate())
    await one.stop(1.0, 1.0)
    async with asyncio.timeout(5):
        while any(thread.name == "loop watch" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


async def test_a_block_that_cannot_be_told_does_not_end_the_watch(launch, host, quick, tmp_path, monkeypatch):
    (tmp_path / "release" / "blocking.py").write_text(BLOCKING)
    tell, told = LoopWatch._tell, []

    def fails_once(watch, frame):
        told.append(frame)
        if len(told) == 1:
            raise LookupError("no such line")
        tell(watch, frame)

    monkeypatch.setattr(LoopWatch, "_tell", fails_once)
    with structlog.testing.capture_logs() as logged:
        one = InlineRuntime(launch("blocking:Blocking"), host, lambda *_: None, LoopWatch())
        await one.start()
        async with asyncio.timeout(30):
            while not any(line["event"] == "loop_blocked" for line in logged):
                await one.call(ServiceCall("block", {"seconds": 0.2}))
                await asyncio.sleep(0.03)  # the loop turns, so that the next block is another one
        await one.stop(1.0, 1.0)
    assert any(line["event"] == "block_not_told" for line in logged)
