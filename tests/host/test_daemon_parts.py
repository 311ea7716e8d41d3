"""A whole daemon one of whose background parts dies: it is said wherever someone looks, and mended where it can be."""

import asyncio
import contextlib
import sqlite3
import threading
import uuid
from pathlib import Path

import aiohttp
import pytest

from host import daemon
from host.observe import background_parts
from host.runtime.data_watch import DataWatch
from host.scheduling.scheduler import Scheduler
from host.settings import Settings
from host.storage.writer import Writer
from plugin_sdk.clock import SystemClock


class Asked:
    """A daemon in this process, asked over HTTP."""

    def __init__(self, one, token, session):
        self.daemon = one
        self._address = one.address
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session = session

    async def get(self, path):
        async with self._session.get(self._address + path, headers=self._headers) as response:
            body = await response.text()
            return response.status, await response.json() if body.startswith("{") else body

    async def publish(self):
        event = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "/tests", "type": "a.b"}
        headers = {**self._headers, "Content-Type": "application/cloudevents+json"}
        async with self._session.post(self._address + "/api/v1/events", json=event, headers=headers) as response:
            return response.status, await response.json()

    async def make_token(self):
        body = {"name": "one", "role": "viewer"}
        async with self._session.post(self._address + "/api/v1/tokens", json=body, headers=self._headers) as response:
            return response.status, await response.json()

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
async def running(folder: Path, token: str | None = None):
    settings = Settings.model_validate({"server": {"port": 0}, "storage": {"directory": folder / "var"}})
    async with daemon.running(settings, SystemClock()) as one, aiohttp.ClientSession() as session:
        yield Asked(one, token or one.administrator_token, session)


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


async def test_a_scheduler_that_dies_is_started_again_and_said_to_have_died(tmp_path, monkeypatch):
    look, looks = Scheduler.look, []

    async def dies_once(scheduler):
        looks.append(1)
        if len(looks) == 1:
            raise LookupError("no such rule")
        return await look(scheduler)

    monkeypatch.setattr(Scheduler, "look", dies_once)
    async with running(tmp_path) as host:
        (alert,) = await host.until(host.alerts)
        assert (alert["id"], alert["severity"]) == ("host/part/scheduler", "warning")
        assert "LookupError: no such rule" in alert["message"]
        await host.until(lambda: _is(len(looks) > 1))
        assert (await host.get("/readyz"))[0] == 200


async def test_a_writer_that_dies_leaves_the_host_unfit_and_nobody_waits_for_it(tmp_path, monkeypatch):
    died = threading.Event()
    written = Writer._write

    def write(writer, connection, batch):
        if died.is_set():
            raise SystemError("lost")
        return written(writer, connection, batch)

    monkeypatch.setattr(Writer, "_write", write)
    async with running(tmp_path) as host:
        assert (await host.get("/readyz"))[0] == 200
        died.set()
        status, answer = await host.make_token()
        assert (status, answer["code"]) == (503, "storage_unavailable")
        (alert,) = await host.until(host.alerts)
        assert (alert["id"], alert["severity"], alert["nextAction"]) == (
            "host/part/writer",
            "critical",
            "restart the daemon",
        )
        assert (await host.get("/readyz"))[0] == 503
        assert (await host.background())["status"] == "fail"
        assert [one.unfit for one in host.daemon.trouble()] == [True]
        assert (await host.make_token())[0] == 503
        assert (await host.publish())[0] == 202, "what is in the log does not hang on it"


async def test_a_host_listens_although_a_record_cannot_be_read(tmp_path):
    async with running(tmp_path) as host:
        token = host.daemon.administrator_token
    with sqlite3.connect(tmp_path / "var" / "busbar.db") as database:
        columns = {
            name: b"" if kind == "BLOB" else "" if kind == "TEXT" else 0
            for _, name, kind, needed, default, _ in database.execute("PRAGMA table_info(plugins)")
            if needed and default is None
        }
        columns |= {"id": "shop", "enabled": 1}
        marks = ", ".join("?" * len(columns))
        database.execute(f"INSERT INTO plugins ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values()))
    async with running(tmp_path, token) as host:
        assert (await host.get("/readyz"))[0] == 200
        _, answer = await host.get("/api/v1/plugins/shop")
        assert (answer["data"]["state"], answer["data"]["cause"]) == ("failed", "record_damaged")
        codes = {one["code"] for one in (await host.get("/api/v1/alerts"))[1]["data"]}
        assert codes == {"record_damaged", "registry_tampered"}, "who adds a row is found out all the same"


async def _is(found):
    return found
