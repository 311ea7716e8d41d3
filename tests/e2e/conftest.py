"""The real daemon as a process, talked to over HTTP only; plugins are built and signed by the real command.

Daemons are forked from a process that has imported the host already, for there are hundreds of starts; `cold`
starts the command itself.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import aiohttp
import forked_command
import pytest
from footing import Footing, stand, usual

ROOT = Path(__file__).parents[2]
pytest.register_assert_rewrite("tests.e2e.isolation_cases")
BUSBAR = [sys.executable, "-m", "host.cli.main"]


def busbar(*arguments, cwd=None, env=None, check=True):
    done = subprocess.run(
        [*BUSBAR, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"busbar {arguments} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


class Forked:
    """A daemon that was forked, to be handled as a `subprocess.Popen` is."""

    def __init__(self, config, folder, output, footing):
        self._process = forked_command.WARM.Process(
            target=_daemon, args=(config, folder, output, dict(os.environ), footing)
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds):
        self._process.join(seconds)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("busbar run", seconds)
        return self.poll()


def _daemon(config, folder, output, environment, footing):
    """In the forked process: what `busbar run` does."""
    from host.cli.main import main

    stand(footing, folder)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    sys.argv = ["busbar", "run", "--config", str(config)]
    main()


class Daemon:
    """One daemon on a state folder of its own; may be killed and started again on the same state.

    `footing` says as whom it runs; plugins run as users of their own, where the tests may arrange that.
    """

    def __init__(self, folder, *, footing=None, **options):
        self.folder = folder
        self.footing = footing or usual()
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self.process = None
        self.output = folder / "output.log"
        self.config = folder / "busbar.toml"
        self.http_processes = options.get("server", {}).get("processes", 0)
        sections = {
            "server": {"port": self.port, "processes": 0},
            "storage": {"directory": str(folder / "var")},
            "log": {"format": "json"},
            "scan": {"bandit": "off"},  # a second for each install, and tested where it is the subject
        }
        if footing is None and self.footing is Footing.AS_IT_IS and os.geteuid() == 0:
            sections["sandbox"] = {"plugins_as_root": True}  # there is nobody else to be
        for section, values in options.items():
            sections.setdefault(section, {}).update(values)
        self.config.write_text(
            "\n".join(
                f"[{section}]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
                for section, values in sections.items()
            )
        )

    def start(self, *, cold=False):
        self.process = self._command() if cold else Forked(self.config, self.folder, self.output, self.footing)
        deadline = time.monotonic() + 60
        served = len(self.logged("http_process_ready")) if self.output.exists() else 0
        while not self._ready() or len(self.logged("http_process_ready")) - served < self.http_processes:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the daemon did not get ready:\n{self.output.read_text()[-6000:]}")
            time.sleep(0.05)
        found = re.search(r"administrator token: (\S+)", self.output.read_text())
        if found:
            self.token = found[1]
        return self

    def _command(self):
        with self.output.open("ab") as output:
            return subprocess.Popen(
                [*BUSBAR, "run", "--config", str(self.config)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: stand(self.footing, self.folder),  # noqa: PLW1509 - it takes no lock of another thread
            )

    def _ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def logged(self, word):
        return [
            record
            for record in map(_record, self.output.read_text().splitlines())
            if record and record.get("event") == word
        ]

    async def ask(self, method, path, *, json_body=None, token=None, data=None, headers=None, params=None):
        headers = dict(headers or {})
        secret = self.token if token is None else token
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.url + path, json=json_body, data=data, headers=headers, params=params
            ) as response,
        ):
            raw = await response.read()
            return response.status, json.loads(raw) if raw.startswith(b"{") else raw

    async def publish(self, type_, *, data=None, subject=None, id_=None, session=None):
        event = {
            "specversion": "1.0",
            "id": id_ or str(uuid.uuid4()),
            "source": "/tests",
            "type": type_,
            "data": data,
        }
        if subject:
            event["subject"] = subject
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/cloudevents+json"}
        if session is not None:
            async with session.post(self.url + "/api/v1/events", data=json.dumps(event), headers=headers) as response:
                return response.status, await response.json()
        return await self.ask("POST", "/api/v1/events", data=json.dumps(event), headers=headers)

    async def install(self, wheel, *, enable=True, attestations=None):
        form = aiohttp.FormData()
        form.add_field("wheel", wheel.read_bytes(), filename=wheel.name)
        sidecar = (
            attestations if attestations is not None else wheel.with_name(wheel.name + ".intoto.jsonl").read_bytes()
        )
        form.add_field("attestations", sidecar, filename=wheel.name + ".intoto.jsonl")
        params = {"enable": "true"} if enable else {}
        return await self.ask("POST", "/api/v1/plugins", data=form, params=params)

    async def trust(self, public, plugins, publisher="acme", **more):
        body = {
            "id": publisher,
            "title": publisher,
            "keys": [{"public": public}],
            "plugins": plugins,
            **more,
        }
        status, answer = await self.ask("POST", "/api/v1/publishers", json_body=body)
        assert status == 201, answer

    async def until(self, condition, *, seconds=30):
        """Wait for an awaited condition; what it last answered is in the failure."""
        deadline = time.monotonic() + seconds
        while True:
            found = await condition()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not within {seconds} s: {condition}; log ends:\n{self.output.read_text()[-4000:]}"
                )
            await _pause()


async def _pause():
    import asyncio

    await asyncio.sleep(0.05)


def _record(line):
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def daemon(tmp_path):
    made = []

    def make(**options):
        made.append(Daemon(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


@pytest.fixture(scope="session")
def daemon_class():
    return Daemon


class Signed:
    """Wheels of plugins, built and signed with one key by the forked command: there are dozens."""

    def __init__(self, folder):
        self.folder = folder
        self.key = folder / "acme.key"
        self._busbar("key", "new", self.key, "--no-passphrase")
        self.public = self._busbar("key", "show", self.key).split()[-1]

    def build(self, project):
        built = self._busbar("plugin", "build", project, "--out", self.folder, "--json")
        wheel = Path(json.loads(built)["wheel"])
        self._busbar("plugin", "sign", wheel, "--key", self.key, "--publisher", "acme")
        return wheel

    def _busbar(self, *arguments):
        done = forked_command.busbar(self.folder, *arguments, environment={"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="session")
def signed(tmp_path_factory):
    return Signed(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def wheels(signed):
    return {name: signed.build(ROOT / "plugins" / name) for name in ("heartbeat", "teamwork", "saboteur")}
