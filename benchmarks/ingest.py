"""Acknowledged events per second over HTTP, beside an aiohttp handler that only reads the body and answers 202.

Ours is the real daemon: token, CloudEvent checks, fsynced append, and a worker subscribed to every event. Both
are processes of their own on the same loop, loaded by the same generator over 64 connections, in turns.

`ingest-batch` has batches of 100 instead of single events, over 8 connections; its peer is `ingest`.
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
BATCH: Final = 100
BATCH_CONNECTIONS: Final = 8
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
MODULE: Final = '''"""Takes every event of the benchmark."""
from plugin_sdk import Plugin, on_event


class Taker(Plugin):
    @on_event("benchmark.*")
    async def take(self, event):
        pass
'''
MANIFEST: Final = '[plugin]\nid = "taker"\ntitle = "Taker"\n\n[permissions]\nsubscribe = ["benchmark.*"]\n'


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with (
        tempfile.TemporaryDirectory(prefix="busbar-ingest-") as name,
        bare_handler() as bare,
        daemon(Path(name)) as host,
    ):
        host.trust("taker")
        host.install_module("taker", "Taker", MODULE, MANIFEST)
        ours: list[float] = []
        theirs: list[float] = []
        batches: list[float] = []
        for _ in range(ROUNDS):
            theirs.append(load(bare, "none"))
            ours.append(load(host.port, host.token))
            host.drained("taker")
            batches.append(load(host.port, host.token, connections=BATCH_CONNECTIONS, batch=BATCH) * BATCH)
            host.drained("taker")
    bare_rate = statistics.median(theirs)
    return [
        Figure(NAME, statistics.median(ours), "events/s", "bare aiohttp handler", bare_rate),
        Figure(f"{NAME}-batch", statistics.median(batches), "events/s", "bare aiohttp handler, requests/s", bare_rate),
    ]


def load(port: int, token: str, *, connections: int = CONNECTIONS, batch: int = 0) -> float:
    """Answers a second that the server gives under load."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.http_load",
            str(port),
            "/api/v1/events",
            str(connections),
            str(SECONDS),
            token,
            str(batch),
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
def bare_handler() -> Iterator[int]:
    """The peer as a process; its port."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", _BARE, str(port)]) as process:
        try:
            reachable(port)
            yield port
        finally:
            process.terminate()
