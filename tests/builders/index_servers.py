"""Package indexes on real sockets: one in JSON that does what a test says, and pypiserver as it is."""

import contextlib
import hashlib
import socket
import subprocess
import sys
import time

from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from host.supply.index.index_client import Indexes
from host.supply.index.index_source import IndexSource

JSON = "application/vnd.pypi.simple.v1+json"
WHEEL = "acme_demo-{}-py3-none-any.whl"


class IndexServer:
    """An index of PEP 691 over HTTP. `answers` are handlers by path that stand in for what it would say itself."""

    def __init__(self):
        self.projects = {}
        self.bytes = {}
        self.answers = {}
        self.asked = []
        self.meta = {"api-version": "1.4"}
        self.etags = False
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._server = TestServer(app)

    async def __aenter__(self):
        await self._server.start_server()
        return self

    async def __aexit__(self, *_):
        await self._server.close()

    @property
    def url(self):
        return URL(str(self._server.make_url("/simple/")))

    @property
    def paths(self):
        """What was asked for, in order."""
        return [request.raw_path for request in self.asked]

    def source(self, name="main", **changes):
        return IndexSource(name, self.url, **changes)

    def has(self, version, content=b"a wheel", *, plugin="acme-demo", filename=None, **entry):
        """Add a wheel; `entry` are further keys of its file, `attestations` are put beside it."""
        filename = filename or f"{plugin.replace('-', '_')}-{version}-py3-none-any.whl"
        attestations = entry.pop("beside", None)
        self.bytes[f"/files/{filename}"] = content
        if attestations is not None:
            self.bytes[f"/files/{filename}.intoto.jsonl"] = attestations
        project = self.projects.setdefault(plugin, {"name": plugin, "files": []})
        hashes = {"sha256": hashlib.sha256(content).hexdigest()}
        project["files"].append({"filename": filename, "url": f"/files/{filename}", "hashes": hashes, **entry})
        return filename

    def answers_with(self, path, **response):
        """Answer `path` with this response."""

        async def handler(request):
            return web.Response(**response)

        self.answers[path] = handler

    async def _serve(self, request):
        self.asked.append(request)
        path = request.path
        if path in self.answers:
            return await self.answers[path](request)
        if path in self.bytes:
            return web.Response(body=self.bytes[path], content_type="application/octet-stream")
        if path == "/simple/":
            return self._json({"projects": [{"name": name} for name in self.projects]}, request)
        name = path.removeprefix("/simple/").removesuffix("/")
        if name in self.projects:
            return self._json(self.projects[name], request)
        return web.Response(status=404)

    def _json(self, found, request):
        response = web.json_response({"meta": self.meta, **found}, content_type=JSON)
        if self.etags:
            response.headers["ETag"] = f'"{hashlib.sha256(response.body).hexdigest()[:16]}"'
            if request.headers.get("If-None-Match") == response.headers["ETag"]:
                return web.Response(status=304)
        return response


@contextlib.asynccontextmanager
async def indexes(*sources, **options):
    async with Indexes(sources, **options) as found:
        yield found


@contextlib.contextmanager
def pypiserver(folder, *options):
    """The address of a pypiserver process over a folder of files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pypiserver", "run", "-i", "127.0.0.1", "-p", str(port), *options, str(folder)]
    with (folder.parent / "pypiserver.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert process.poll() is None, (folder.parent / "pypiserver.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield URL(f"http://127.0.0.1:{port}/simple/")
    finally:
        process.terminate()
        process.wait(10)


def _answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
