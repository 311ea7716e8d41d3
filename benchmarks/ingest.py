"""Acknowledged events per second over HTTP, beside an aiohttp handler that only reads the body and answers 202.

Ours is the real daemon: token, CloudEvent checks, fsynced append, and a worker subscribed to every event. Both
are processes of their own on the same loop, loaded by the same generator over 64 connections, in turns.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from benchmarks.measure import Figure
from host.cli.building import build_wheel
from host.runtime.sdk_path import provided
from host.supply.keys import PrivateKey
from host.supply.signing import attestations_of, sign_wheel

NAME: Final = "ingest"
CONNECTIONS: Final = 64
SECONDS: Final = 3.0
ROUNDS: Final = 3
ROOT: Final = Path(__file__).parents[1]

_BARE: Final = """
import sys, uvloop
from aiohttp import web

async def handle(request):
    await request.read()
    return web.Response(status=202)

app = web.Application()
app.router.add_post("/api/v1/events", handle)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=uvloop.new_event_loop())
"""
_MODULE: Final = '''"""Takes every event of the benchmark."""
from plugin_sdk import Plugin, on_event


class Taker(Plugin):
    @on_event("benchmark.*")
    async def take(self, event):
        pass
'''
_PROJECT: Final = """[build-system]
requires = ["flit_core>=3.12"]
build-backend = "flit_core.buildapi"

[project]
name = "taker"
version = "1.0.0"
description = "Takes every event of the benchmark."

[project.entry-points."busbar.plugins"]
taker = "taker:Taker"
"""
_MANIFEST: Final = '[plugin]\nid = "taker"\ntitle = "Taker"\n\n[permissions]\nsubscribe = ["benchmark.*"]\n'


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with tempfile.TemporaryDirectory(prefix="busbar-ingest-") as name, _bare() as bare, _daemon(Path(name)) as daemon:
        port, token = daemon
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            theirs.append(_load(bare, "none"))
            ours.append(_load(port, token))
        _drained(port, token)
    return [Figure(NAME, statistics.median(ours), "events/s", "bare aiohttp handler", statistics.median(theirs))]


def _load(port: int, token: str) -> float:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.http_load",
            str(port),
            "/api/v1/events",
            str(CONNECTIONS),
            str(SECONDS),
            token,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert not found["refused"], found
    return float(found["answers"] / found["seconds"])


@contextmanager
def _bare() -> Iterator[int]:
    port = _free_port()
    with subprocess.Popen([sys.executable, "-c", _BARE, str(port)]) as process:
        try:
            _reachable(port)
            yield port
        finally:
            process.terminate()


@contextmanager
def _daemon(folder: Path) -> Iterator[tuple[int, str]]:
    port = _free_port()
    config = folder / "busbar.toml"
    config.write_text(
        f'[server]\nport = {port}\n[storage]\ndirectory = "{folder / "var"}"\n'
        '[log]\nlevel = "warning"\nformat = "json"\n'
    )
    output = folder / "output.log"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-m", "host.cli.main", "run", "--config", str(config)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=file,
        ) as process,
    ):
        try:
            _reachable(port)
            match = _until(lambda: re.search(r"administrator token: (\S+)", output.read_text()))
            token = str(match[1])
            _install(folder, port, token)
            yield port, token
        finally:
            process.terminate()


def _install(folder: Path, port: int, token: str) -> None:
    """Build, sign and install the plugin that takes every event, as a publisher and an administrator would."""
    project = folder / "taker"
    (project / "taker").mkdir(parents=True)
    (project / "pyproject.toml").write_text(_PROJECT)
    (project / "taker" / "__init__.py").write_text(_MODULE)
    (project / "taker" / "plugin.toml").write_text(_MANIFEST)
    wheel = build_wheel(project, folder)
    key = PrivateKey.new()
    sign_wheel(wheel, key, publisher="bench", sequence=1, issued_at=datetime.now(UTC), provided=provided())
    publisher = {"id": "bench", "keys": [{"public": str(key.public)}], "plugins": ["taker"]}
    _ask(port, token, "/api/v1/publishers", json.dumps(publisher).encode(), "application/json")
    boundary = "busbar-benchmark"
    parts = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n\r\n'.encode()
        + path.read_bytes()
        + b"\r\n"
        for name, path in (("wheel", wheel), ("attestations", attestations_of(wheel)))
    )
    kind = f"multipart/form-data; boundary={boundary}"
    found = _ask(port, token, "/api/v1/plugins?enable=true", parts + f"--{boundary}--\r\n".encode(), kind)
    assert found["state"] == "running", found


def _drained(port: int, token: str) -> None:
    """Every event that was acknowledged reaches the plugin: the figure is of work that was done."""
    _until(lambda: _ask(port, token, "/api/v1/plugins/taker/health")["lag"] == 0, seconds=60)


def _ask(port: int, token: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}", **({"Content-Type": kind} if kind else {})}
    request = Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    with urlopen(request, timeout=60) as response:  # noqa: S310 - as above
        return json.loads(response.read())["data"]


def _until(condition: Any, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)
    return found


def _reachable(port: int) -> None:
    def connects() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    _until(connects)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
