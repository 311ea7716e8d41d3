"""The real daemon as a process, with plugins that are built, signed and installed as by other people."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from host.cli.building import build_wheel
from host.runtime.sdk_path import provided
from host.supply.trust.keys import PrivateKey
from host.supply.trust.signing import attestations_of, sign_wheel

ROOT: Final = Path(__file__).parents[1]
_PROJECT: Final = """[build-system]
requires = ["flit_core>=3.12"]
build-backend = "flit_core.buildapi"

[project]
name = "{id}"
version = "1.0.0"
description = "{title}"

[project.entry-points."busbar.plugins"]
{id} = "{module}:{name}"
"""


class Daemon:
    """A daemon that runs; it trusts one publisher for the plugins that it is given.

    Attributes:
        port: Where its API is, on loopback.
        token: An administrator's.
        pid: Its process id.
    """

    def __init__(self, folder: Path, port: int, token: str, pid: int) -> None:
        self.port = port
        self.token = token
        self.pid = pid
        self._folder = folder
        self._key = PrivateKey.new()

    def trust(self, *plugins: str) -> None:
        """Trust the benchmarks' publisher for these plugins."""
        publisher = {"id": "bench", "keys": [{"public": str(self._key.public)}], "plugins": plugins}
        self.ask("/api/v1/publishers", json.dumps(publisher).encode(), "application/json")

    def install_module(self, id_: str, name: str, source: str, manifest: str) -> None:
        """Install and enable a plugin of one module, whose plugin class is `name`."""
        module = id_.replace("-", "_")
        project = self._folder / id_
        (project / module).mkdir(parents=True)
        values = {"id": id_, "title": f"{name} of the benchmarks.", "module": module, "name": name}
        (project / "pyproject.toml").write_text(_PROJECT.format(**values))
        (project / module / "__init__.py").write_text(source)
        (project / module / "plugin.toml").write_text(manifest)
        self.install(self.build(project))

    def build(self, project: Path) -> Path:
        """A signed wheel of a plugin's project."""
        wheel = build_wheel(project, self._folder)
        sign_wheel(wheel, self._key, publisher="bench", sequence=1, issued_at=datetime.now(UTC), provided=provided())
        return wheel

    def install(self, wheel: Path) -> None:
        """Install and enable a signed wheel."""
        boundary = "busbar-benchmark"
        parts = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n\r\n'.encode()
            + path.read_bytes()
            + b"\r\n"
            for name, path in (("wheel", wheel), ("attestations", attestations_of(wheel)))
        )
        kind = f"multipart/form-data; boundary={boundary}"
        found = self.ask("/api/v1/plugins?enable=true", parts + f"--{boundary}--\r\n".encode(), kind)
        assert found["state"] == "running", found

    def drained(self, plugin: str) -> None:
        """Wait until every event that was acknowledged has reached the plugin: figures are of work that was done."""
        until(lambda: self.ask(f"/api/v1/plugins/{plugin}/health")["lag"] == 0, seconds=300)

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json", method: str = "") -> Any:
        """The data of the answer to a GET, to a POST where there is a body, or to what `method` says."""
        headers = {"Authorization": f"Bearer {self.token}", **({"Content-Type": kind} if body is not None else {})}
        request = Request(f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers, method=method or None)
        try:
            with urlopen(request, timeout=60) as response:  # noqa: S310 - the daemon on this machine
                return json.loads(response.read())["data"]
        except HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from error

    def metric(self, name: str) -> float:
        """A metric without labels, as it is now."""
        request = Request(f"http://127.0.0.1:{self.port}/metrics", headers={"Authorization": f"Bearer {self.token}"})
        with urlopen(request, timeout=60) as response:  # noqa: S310 - the daemon on this machine
            found = re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)
        assert found, name
        return float(found[1])


@contextmanager
def daemon(folder: Path, settings: str = "", *, server: str = "") -> Iterator[Daemon]:
    """A daemon with everything in `folder`; `settings` are more of its TOML, `server` more of that section."""
    port = free_port()
    config = folder / "busbar.toml"
    config.write_text(
        f'[server]\nport = {port}\n{server}\n[storage]\ndirectory = "{folder / "var"}"\n'
        # As root, in whatever folder: what is measured is not where it lies. What misbehaves is no release to refuse.
        "[sandbox]\nplugins_as_root = true\n"
        f'[scan]\nbandit = "off"\n[log]\nlevel = "warning"\nformat = "json"\n{settings}'
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
            reachable(port)
            match = until(lambda: re.search(r"administrator token: (\S+)", output.read_text()))
            yield Daemon(folder, port, str(match[1]), process.pid)
        finally:
            process.terminate()


def until(condition: Any, seconds: float = 30) -> Any:
    """Wait for a condition; what it answered."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)
    return found


def reachable(port: int) -> None:
    """Wait until something listens on a port of this machine."""

    def connects() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    until(connects)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
