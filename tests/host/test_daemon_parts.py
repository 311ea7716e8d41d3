"""A whole daemon one of whose background parts dies: it is said wherever someone looks, and mended where it can be."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from host import daemon
from host.errors import BusbarError
from host.lifecycle.reconciler import Reconciler
from host.observe import background_parts
from host.runtime.data_watch import DataWatch
from host.settings import Settings
from plugin_sdk.clock import SystemClock


class Asked:
    """A daemon in this process, asked over HTTP."""

    def __init__(self, address, token, session):
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session = session

    async def get(self, path):
        async with self._session.get(self._address + path, headers=self._headers) as response:
            body = await response.text()
            return response.status, await response.json() if body.startswith("{") else body

    async def background(self):
        return (await self.get("/health"))[1]["data"]["checks"]["background"]

    async def alerts(self):
        return [one for one in (await self.get("/api/v1/alerts"))[1]["data"] if one["code"] == "part_ended"]

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not (found := await condition()):
                await asyncio.sleep(0.01)
            return found


@contextlib.asynccontextmanager
async def running(folder: Path):
    settings = Settings.model_validate({"server": {"port": 0}, "storage": {"directory": folder / "var"}})
    async with daemon.running(settings, SystemClock()) as one, aiohttp.ClientSession() as session:
        yield Asked(one.address, one.administrator_token, session)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(background_parts, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(background_parts, "LONGEST_WAIT", 0.02)


async def test_a_part_that_died_once_runs_again_and_is_said_to_have_died(tmp_path, monkeypatch):
    run, lives = DataWatch.run, []

    async def dies_once(watch):
        lives.append(watch)
        if len(lives) == 1:
            raise OSError(36, "File name too long")
        await run(watch)

    monkeypatch.setattr(DataWatch, "run", dies_once)
    async with running(tmp_path) as host:
        check = await host.background()
        assert check["status"] == "warn"
        assert check["output"].startswith("data watch died (OSError: [Errno 36] File name too long): it is started")
        (alert,) = await host.alerts()
        assert (alert["id"], alert["severity"], alert["subject"]) == ("host/part/data-watch", "warning", "data watch")
        assert (await host.get("/readyz"))[0] == 200
        assert 'busbar_part_deaths_total{part="data watch"} 1.0' in (await host.get("/metrics"))[1]
        await host.until(lambda: _is(len(lives) == 2))


async def test_a_part_that_dies_again_and_again_leaves_the_host_unfit(tmp_path, monkeypatch):
    async def dies(_watch):
        raise RuntimeError("no")

    monkeypatch.setattr(DataWatch, "run", dies)
    async with running(tmp_path) as host:

        async def unfit():
            return (await host.get("/readyz"))[0] == 503

        await host.until(unfit)
        assert (await host.background())["status"] == "fail"
        (alert,) = await host.alerts()
        assert alert["severity"] == "critical"
        assert "restart the daemon" in alert["nextAction"]


async def test_a_reconciler_that_dies_leaves_the_host_unfit_at_once(tmp_path, monkeypatch):
    died = asyncio.Event()
    run = Reconciler.run

    async def until_told(reconciler, started):
        running = asyncio.create_task(run(reconciler, started))
        await died.wait()
        running.cancel()
        await asyncio.wait((running,))
        raise RuntimeError("lost")

    monkeypatch.setattr(Reconciler, "run", until_told)
    async with running(tmp_path) as host:
        assert (await host.get("/readyz"))[0] == 200
        assert (await host.background())["status"] == "pass"
        died.set()
        (alert,) = await host.until(host.alerts)
        assert (alert["severity"], alert["nextAction"]) == ("critical", "restart the daemon")
        assert (await host.get("/readyz"))[0] == 503


async def test_a_reconciler_that_dies_before_it_has_looked_keeps_the_host_from_starting(tmp_path, monkeypatch):
    async def dies(_reconciler, _started):
        raise RuntimeError("lost")

    monkeypatch.setattr(Reconciler, "run", dies)
    with pytest.raises(BusbarError, match="the reconciler ended before the plugins were looked at"):
        async with running(tmp_path):
            pass


async def _is(found):
    return found
