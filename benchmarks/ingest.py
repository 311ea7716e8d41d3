"""Acknowledged events per second over HTTP, beside an aiohttp handler that only reads the body and answers 202.

Ours is the real daemon: token, CloudEvent checks, fsynced append, and a worker subscribed to every event. Both
are processes of their own on the same loop, loaded by the same generator over 64 connections, in turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.daemon import ROOT, daemon, free_port, reachable
from benchmarks.measure import Figure

NAME: Final = "ingest"
CONNECTIONS: Final = 64
SECONDS: Final = 3.0
ROUNDS: Final = 3

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
_MANIFEST: Final = '[plugin]\nid = "taker"\ntitle = "Taker"\n\n[permissions]\nsubscribe = ["benchmark.*"]\n'


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with tempfile.TemporaryDirectory(prefix="busbar-ingest-") as name, _bare() as bare, daemon(Path(name)) as host:
        host.trust("taker")
        host.install_module("taker", "Taker", _MODULE, _MANIFEST)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            theirs.append(_load(bare, "none"))
            ours.append(_load(host.port, host.token))
        host.drained("taker")
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
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", _BARE, str(port)]) as process:
        try:
            reachable(port)
            yield port
        finally:
            process.terminate()
