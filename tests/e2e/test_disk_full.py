"""A full disk: what does not fit is refused, what was acknowledged stays, and with room again all goes on by itself."""

import asyncio
import errno
import os
import random
import shutil
import subprocess
import uuid

import aiohttp
import pytest
from plugin_projects import write_project

SIZE = "24m"
"""Of the disk: little enough to be filled at once, and enough for the state folder, its plugin and some events."""
ROOM = 2 * 2**20
"""Bytes that are left to events once the plugin runs."""
DATA = "x" * 4000
BREAKER = {"open_for": "500ms", "longest_open": "500ms"}
"""The witness fails while it cannot write; its breaker has to find out soon that it can again."""

WITNESS = '''"""Writes down every delivery, on the disk that is full."""
import asyncio
import os
from pathlib import Path

from plugin_sdk import Plugin, on_event


class Witness(Plugin):
    async def start(self, context):
        self.file = os.open(Path.cwd() / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @on_event("disk.test", attempts=100, first_retry=0.2, longest_retry=1.0)
    async def see(self, event):
        await asyncio.sleep(0.2)  # so that deliveries are under way whenever the disk gets full
        line = f"\\n{event.id}\\n".encode()
        if os.write(self.file, line) < len(line):
            raise OSError("half a line")
'''

MANIFEST = """[permissions]
subscribe = ["disk.*"]
[runtime]
concurrency = 32
"""


class Disk:
    """A file system of a few megabytes, which a junk file fills."""

    def __init__(self, folder):
        self.folder = folder
        self.junk = folder / "junk"

    def fill(self, *, leave=0):
        """Use up what is there, but for `leave` bytes."""
        free = os.statvfs(self.folder)
        size = free.f_bavail * free.f_frsize - leave
        with self.junk.open("ab", buffering=0) as junk:
            while size > 0:
                try:
                    size -= junk.write(b"\0" * min(size, 2**16))
                except OSError as error:
                    if error.errno == errno.ENOSPC:
                        return
                    raise

    def clear(self):
        self.junk.unlink()


@pytest.fixture
def disk(tmp_path):
    if shutil.which("mount") is None:
        pytest.skip("there is no command to mount a file system with")
    folder = tmp_path / "var"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        # Lazily: a daemon that a failed test left behind must not keep the mount.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Publisher:
    """Publishes, and knows what was acknowledged; whatever is refused must be refused as it should."""

    def __init__(self, host):
        self.host = host
        self.acknowledged = set()
        self.refused = 0

    async def one(self, session):
        """Whether one event was taken."""
        id_ = uuid.uuid4().hex
        event = {"specversion": "1.0", "id": id_, "source": "/tests", "type": "disk.test", "data": DATA}
        status, _ = await tell(self.host, session, "POST", "/api/v1/events", event, "application/cloudevents+json")
        if status == 202:
            self.acknowledged.add(id_)
        else:
            self.refused += 1
        return status == 202

    async def until_full(self, session):
        """Publish from several sides at once until each of them is refused."""

        async def publish():
            for _ in range(5000):
                if not await self.one(session):
                    return
            raise AssertionError("the disk was never full")

        await asyncio.gather(*(publish() for _ in range(8)))


async def tell(host, session, method, path, body=None, content_type="application/json"):
    """A request; its answer, which is never a crash, and where the host cannot write says when to come again."""
    headers = {"Authorization": f"Bearer {host.token}", "Content-Type": content_type}
    async with session.request(method, host.url + path, json=body, headers=headers) as response:
        raw = await response.read()
        found = await response.json() if response.content_type == "application/json" else raw
        assert response.status < 500 or response.status == 503, found
        if response.status == 503:
            assert found["code"] == "storage_unavailable"
            assert "is the disk full?" in found["message"]
            assert int(response.headers["Retry-After"]) >= 1
        return response.status, found


@pytest.fixture(scope="module")
def wheel(signed, tmp_path_factory):
    return signed.build(write_project(tmp_path_factory.mktemp("witness"), "witness", WITNESS, manifest=MANIFEST))


@pytest.fixture
async def host(daemon, signed, wheel, disk):
    """A daemon with the witness running on the small disk, of which only `ROOM` is left."""
    found = daemon(server={"drain": "3s"}, breaker=BREAKER).start()
    await found.trust(signed.public, ["witness"])
    status, answer = await found.install(wheel)
    assert status == 201, answer
    disk.fill(leave=ROOM)
    return found


def seen(disk):
    return set((disk.folder / "data" / "witness" / "seen").read_text().split())


async def in_log(host, session):
    """The ids of all events in the log."""
    found, page = set(), 1
    while True:
        _, answer = await tell(host, session, "GET", f"/api/v1/events?type=disk.test&limit=200&page={page}")
        found |= {one["event"]["id"] for one in answer["data"]}
        if page >= answer["pagination"]["totalPages"]:
            return found
        page += 1


async def all_seen(host, publisher, disk):
    async def condition():
        return publisher.acknowledged <= seen(disk)

    await host.until(condition)


async def test_while_the_disk_is_full_the_host_stays_up_and_once_it_is_not_goes_on_by_itself(host, disk):
    publisher = Publisher(host)
    async with aiohttp.ClientSession() as session:
        await publisher.until_full(session)
        disk.fill()
        await publisher.until_full(session)
        assert publisher.refused == 16
        assert len(publisher.acknowledged) > 50
        assert not publisher.acknowledged <= seen(disk)

        async def outcomes_wait():
            return len(host.logged("outcomes_not_written")) > 2

        await host.until(outcomes_wait)
        for path in ("/readyz", "/livez", "/health", "/metrics", "/api/v1/events", "/api/v1/plugins/witness/health"):
            status, answer = await tell(host, session, "GET", path)
            assert status == 200, (path, answer)
        for path, body in (
            ("/api/v1/tokens", {"name": "one", "role": "viewer"}),
            ("/api/v1/replays", {"plugin": "witness"}),
            ("/api/v1/plugins/witness/restart?wait=false", None),
        ):
            await tell(host, session, "POST", path, body)

        disk.clear()
        await host.until(lambda: publisher.one(session))
        await all_seen(host, publisher, disk)
        assert host.stop() == 0
        host.start()
        assert publisher.acknowledged <= await in_log(host, session)
    assert host.stop() == 0


async def test_a_host_that_is_killed_while_the_disk_is_full_has_lost_nothing_once_there_is_room(host, disk):
    publisher = Publisher(host)
    async with aiohttp.ClientSession() as session:
        await publisher.until_full(session)
        disk.fill()
        await publisher.one(session)
        host.kill()
    disk.clear()
    host.start()
    async with aiohttp.ClientSession() as session:
        assert publisher.acknowledged <= await in_log(host, session)
        assert await publisher.one(session)
        await all_seen(host, publisher, disk)
    assert host.stop() == 0


async def test_a_host_ends_when_it_is_asked_to_although_the_disk_is_full(host, disk):
    publisher = Publisher(host)
    async with aiohttp.ClientSession() as session:
        await publisher.until_full(session)
        disk.fill()
        await publisher.one(session)
    assert await asyncio.to_thread(host.stop) == 0
    disk.clear()
    host.start()
    async with aiohttp.ClientSession() as session:
        assert publisher.acknowledged <= await in_log(host, session)
        await all_seen(host, publisher, disk)
    assert host.stop() == 0


BULK = 400 * 1024
"""Bytes that a wheel has; the disk has to hold them spooled, staged and, twice as many, unpacked."""
LEFT = (0, BULK // 2, BULK, BULK * 3 // 2, BULK * 2, BULK * 3, BULK * 4 - 32 * 1024)
BULKY = """from plugin_sdk import Plugin


class Bulky(Plugin):
    data = {data!r}

    async def start(self, context):
        pass
"""


@pytest.fixture(scope="module")
def bulky(signed, tmp_path_factory):
    code = BULKY.format(data=random.Random(1).randbytes(BULK).hex())  # of two digits one is all that can be saved
    return signed.build(write_project(tmp_path_factory.mktemp("bulky"), "bulky", code))


async def test_an_install_for_which_there_is_no_room_is_refused_at_each_step_and_leaves_nothing(
    daemon, signed, bulky, disk
):
    host = daemon().start()
    await host.trust(signed.public, ["bulky"])
    async with aiohttp.ClientSession() as session:
        for left in LEFT:
            disk.fill(leave=left)
            form = aiohttp.FormData()
            form.add_field("wheel", bulky.read_bytes(), filename=bulky.name)
            sidecar = bulky.with_name(bulky.name + ".intoto.jsonl")
            form.add_field("attestations", sidecar.read_bytes(), filename=sidecar.name)
            headers = {"Authorization": f"Bearer {host.token}"}
            async with session.post(host.url + "/api/v1/plugins", data=form, headers=headers) as response:
                answer = await response.json()
                assert (response.status, answer["code"]) == (503, "storage_unavailable"), (left, answer)
                assert int(response.headers["Retry-After"]) >= 1
            assert list((disk.folder / "staging").iterdir()) == []
            assert (await tell(host, session, "GET", "/api/v1/plugins"))[1]["data"] == []
        disk.clear()
    status, answer = await host.install(bulky)
    assert status == 201, answer
    assert not host.logged("request_crashed")
    assert host.stop() == 0
