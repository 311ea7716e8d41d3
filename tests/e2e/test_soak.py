"""Everything at once, for as long as one likes: nothing acknowledged is lost, nothing grows, every part is alive.

One plugin misbehaves in every way there is, workers and the host are killed, strangers flood the door, and the disk is
small and now and then full. `SOAK_SECONDS` sets how long; `make soak` runs ten minutes.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import aiohttp
import pytest
from plugin_projects import write_project
from saboteur.modes import MODES

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
DISK = "512m"
"""Room for the log and the dead letters within their bounds, a write-ahead log under load, and the plugins' data."""
DATA_QUOTA = "32MiB"
WITNESSES = [f"witness-{number}" for number in range(3)]
MORE_MEMORY = 96 * 2**20
"""What the host may have grown by since it was warm: caches and the allocator's arenas, which have their own bounds."""
MORE_DESCRIPTORS = 24
STRANGERS = 64
GRIEFS = ("kill a worker", "fill the disk", "idle connections", "junk", "guess")

WITNESS = '''"""Writes down every delivery, in a file that outlives it."""
import os
from pathlib import Path

from plugin_sdk import Plugin, on_event


class Witness(Plugin):
    async def start(self, context):
        self.file = os.open(Path.cwd() / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @on_event("soak.work", attempts=100, first_retry=0.2, longest_retry=1.0)
    async def see(self, event):
        line = f"\\n{event.id}\\n".encode()
        if os.write(self.file, line) < len(line):
            raise OSError("half a line")
'''
JUNK = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /hooks/saboteur/none HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
    b"GET /p/saboteur/%ff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET /" + b"a" * 100_000,
)


@pytest.fixture
def small_disk(tmp_path):
    """The state folder on a file system of its own, where one can be mounted; else on the ordinary one."""
    folder = tmp_path / "var"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    yield folder if mounted else None
    if mounted:
        # Lazily: a daemon that a failed test left behind must not keep the mount.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Soak:
    """A host, what was acknowledged by it, and what is done to it."""

    def __init__(self, host, disk, rng):
        self.host = host
        self.disk = disk
        self.rng = rng
        self.acknowledged = set()
        self.refused = 0
        self.tried = set()
        self.pids = {}

    async def publish(self, until):
        """Publish steadily; what is refused is refused with a code, and is nobody's loss."""
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < until:
                id_ = uuid.uuid4().hex
                try:
                    async with asyncio.timeout(20):
                        status, answer = await self.host.publish(
                            "soak.work", id_=id_, data="x" * self.rng.choice((10, 1000, 20_000)), session=session
                        )
                except (aiohttp.ClientError, OSError, TimeoutError):
                    await asyncio.sleep(0.1)  # it was killed, or has no connection to spare
                    continue
                if status == 202:
                    self.acknowledged.add(id_)
                else:
                    assert answer["code"] in {"log_full", "storage_unavailable", "storage_busy"}, answer
                    self.refused += 1
                await asyncio.sleep(0.01)

    async def misbehave(self, until):
        """Have the saboteur misbehave, in one way after the other."""
        modes = sorted(MODES)
        while time.monotonic() < until:
            self.rng.shuffle(modes)
            for mode in modes:
                if time.monotonic() >= until:
                    return
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(20):
                        await self.host.publish("saboteur.command", data={"mode": mode})
                    self.tried.add(mode)
                await asyncio.sleep(0.3)
            # As a person would who is told that it holds the log.
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                await self.host.ask("POST", "/api/v1/plugins/saboteur/skip", json_body={})
                await self.host.ask("POST", "/api/v1/plugins/saboteur/restart?wait=false")

    async def grieve(self, until):
        """Do what strangers and machines do, one after the other."""
        while time.monotonic() < until:
            for grief in GRIEFS:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await getattr(self, "_" + grief.replace(" ", "_"))()
                await asyncio.sleep(self.rng.uniform(0.2, 1.0))

    async def kill_hosts(self, until):
        """Kill the host now and then, and start it again."""
        while time.monotonic() < until:
            await asyncio.sleep(min(self.rng.uniform(4.0, 20.0), max(0.0, until - time.monotonic())))
            await asyncio.to_thread(self.host.kill)
            await asyncio.to_thread(self.host.start)

    async def _kill_a_worker(self):
        plugin = self.rng.choice([*WITNESSES, "saboteur"])
        _, answer = await self.host.ask("GET", f"/api/v1/plugins/{plugin}/health")
        pid = ((answer.get("data") or {}).get("worker") or {}).get("pid")
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _fill_the_disk(self):
        if self.disk is None:
            return
        junk = self.disk / "junk"
        with junk.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**20))
        await asyncio.sleep(self.rng.uniform(0.1, 1.0))
        junk.unlink()

    async def _idle_connections(self):
        with contextlib.ExitStack() as stack:
            for _ in range(STRANGERS):
                stack.enter_context(socket.create_connection(("127.0.0.1", self.host.port), timeout=5))
            await asyncio.sleep(0.5)

    async def _junk(self):
        for junk in JUNK:
            with socket.create_connection(("127.0.0.1", self.host.port), timeout=5) as stranger:
                stranger.sendall(junk)

    async def _guess(self):
        for number in range(20):
            status, _ = await self.host.ask("GET", "/api/v1/plugins", token=f"bbt_guess_{number}")
            assert status in {401, 429}, status


def seen(host, witness):
    file = host.folder / "var" / "data" / witness / "seen"
    return set(file.read_text().split()) if file.exists() else set()


def memory(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def held(folder):
    """What lies in a folder, and the kilobytes that it takes; by a program that does not mind how deep it is."""
    found = subprocess.run(["du", "-sk", *map(str, folder.iterdir())], capture_output=True, text=True)
    return ", ".join(f"{Path(path).name} {size}" for size, path in map(str.split, found.stdout.splitlines()))


async def _all_run(host, plugins):
    states = {}
    for plugin in plugins:
        _, answer = await host.ask("GET", f"/api/v1/plugins/{plugin}")
        states[plugin] = answer["data"]["state"]
    return set(states.values()) <= {"running", "degraded"}


@pytest.mark.timeout(240 + 3 * SECONDS)
async def test_whatever_is_done_at_once_nothing_is_lost_and_nothing_grows(daemon, signed, wheels, small_disk, tmp_path):
    host = daemon(
        runtime={
            "silence": "1s",
            "first_restart": "100ms",
            "longest_restart": "300ms",
            "restarts": 1000,
            "overdue": "1s",
        },
        breaker={"open_for": "500ms", "longest_open": "1s"},
        sandbox={"data": DATA_QUOTA},
        limits={"unread": "1s"},
        events={"keep_bytes": "64MiB", "dead_letter_bytes": "16MiB"},
    )
    host.start()
    manifest = '[permissions]\nsubscribe = ["soak.*"]\n[runtime]\nconcurrency = 16\n'
    await host.trust(signed.public, ["saboteur", *WITNESSES])
    for wheel in (
        wheels["saboteur"],
        *(
            signed.build(
                write_project(tmp_path, id_, WITNESS.replace("Witness(", f"Witness{number}("), manifest=manifest)
            )
            for number, id_ in enumerate(WITNESSES)
        ),
    ):
        status, answer = await host.install(wheel)
        assert status == 201, answer
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    soak = Soak(host, small_disk, random.Random(seed))
    begun = time.monotonic()

    # First with kills of the host; then, for as long again, without: what grows would show there.
    first = begun + SECONDS / 2
    async with asyncio.TaskGroup() as group:
        for work in (soak.publish, soak.misbehave, soak.grieve, soak.kill_hosts):
            group.create_task(work(first))
    await host.until(lambda: _all_run(host, ["saboteur", *WITNESSES]), seconds=60)
    warm = time.monotonic() + SECONDS / 8
    async with asyncio.TaskGroup() as group:
        for work in (soak.publish, soak.misbehave, soak.grieve):
            group.create_task(work(warm))
    before = memory(host.process.pid), descriptors(host.process.pid)
    until = time.monotonic() + SECONDS * 3 / 8
    async with asyncio.TaskGroup() as group:
        for work in (soak.publish, soak.misbehave, soak.grieve):
            group.create_task(work(until))

    print("the state folder holds, in KiB:", held(host.folder / "var"))
    await host.ask("POST", "/api/v1/plugins/saboteur/restart")
    for witness in WITNESSES:

        async def had_all(witness=witness):
            return soak.acknowledged <= seen(host, witness)

        await host.until(had_all, seconds=90)
    await host.until(lambda: _all_run(host, ["saboteur", *WITNESSES]), seconds=60)

    async def calm():
        return descriptors(host.process.pid) <= before[1] + MORE_DESCRIPTORS

    await host.until(calm, seconds=60)
    after = memory(host.process.pid), descriptors(host.process.pid)
    counts = f"{len(soak.acknowledged)} events acknowledged, {soak.refused} refused, {len(soak.tried)} modes"
    print(f"{counts}; memory and descriptors {before}, then {after}")
    assert after[0] <= before[0] + MORE_MEMORY, (before, after)
    assert len(soak.acknowledged) > SECONDS

    async def every_part_lives():
        status, answer = await host.ask("GET", "/health")
        return status == 200 and answer

    await host.until(every_part_lives, seconds=60)
    # What the saboteur still holds of its own events may keep the log full: one command gives it up.
    status, answer = await host.ask("POST", "/api/v1/plugins/saboteur/skip", json_body={})
    assert status == 200, answer

    async def taken():
        status, answer = await host.publish("soak.work", id_="last")
        return status == 202 and answer

    await host.until(taken)
    for witness in WITNESSES:

        async def had_last(witness=witness):
            return "last" in seen(host, witness)

        await host.until(had_last)
    assert host.stop() == 0
