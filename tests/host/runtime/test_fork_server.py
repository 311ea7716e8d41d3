"""The fork server's own life: what its end means is said, and the next worker starts another one."""

import asyncio
import os
import signal

import pytest

from host.runtime.errors import ForkServerError
from host.runtime.fork_server import ForkServer


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_that_ended_is_said_to_have_and_the_next_worker_starts_another_one(fork_server):
    assert fork_server.check().output == "not started yet: no plugin needed it"
    await fork_server._start()
    first = fork_server.pid
    assert (fork_server.check().status, fork_server.check().output) == ("pass", "")
    os.kill(first, signal.SIGKILL)
    await until(lambda: fork_server.check().status == "warn")
    assert fork_server.check().output == "it ended, and with it every worker; it is started with the next worker"
    await fork_server._start()
    assert (fork_server.pid != first, fork_server.check().status) == (True, "pass")


async def test_one_whose_word_is_not_understood_is_given_up(fork_server, monkeypatch):
    await fork_server._start()
    process = fork_server._process

    def not_understood(_packet):
        raise ValueError("what?")

    monkeypatch.setattr(fork_server, "_decode", not_understood)
    exited = fork_server._exits[1] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr("host.runtime.fork_server.socket.recv_fds", lambda *_: (b"?", [], 0, None))
    fork_server._readable()
    monkeypatch.undo()
    assert await exited is None, "whoever waits for a worker hears that it is gone"
    assert "it was not understood, and ended: what?" in fork_server.check().output
    assert fork_server.pid is None
    async with asyncio.timeout(30):
        await process.wait()


async def test_one_that_cannot_be_started_is_said(sdk_path, monkeypatch):
    monkeypatch.setattr("host.runtime.fork_server.sys.executable", "/nonexistent")
    server = ForkServer(sdk_path)
    with pytest.raises(ForkServerError, match="cannot be started"):
        await server._start()
    assert server.check().status == "warn"
