"""A plugin that brings a library of its own: from its lock into its worker, and nowhere else."""

import hashlib
import subprocess
import sys

import pytest
from plugin_projects import write_project

LIBRARY = '"""Counts sheep."""\n\n\ndef sheep(number):\n    return f"{number} sheep"\n'
CLERK = '''"""Counts with a library of its own."""
from plugin_sdk import Plugin, service

import shepherd


class Herder(Plugin):
    @service
    async def count(self, number: int):
        """Count sheep."""
        return shepherd.sheep(number)
'''
LIBRARY_PROJECT = """[build-system]
requires = ["flit_core>=3.12"]
build-backend = "flit_core.buildapi"

[project]
name = "shepherd"
version = "2.1"
description = "Counts sheep."
"""
LOCK = """lock-version = "1.0"
created-by = "tests"
requires-python = ">=3.11"

[[packages]]
name = "shepherd"
version = "2.1"

[[packages.wheels]]
name = "{name}"
url = "https://files.example.org/{name}"
hashes = {{ sha256 = "{digest}" }}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    project = tmp_path_factory.mktemp("shepherd")
    (project / "shepherd.py").write_text(LIBRARY)
    (project / "pyproject.toml").write_text(LIBRARY_PROJECT)
    out = project / "dist"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(project)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def release(signed, library, tmp_path_factory):
    project = write_project(tmp_path_factory.mktemp("herder"), "herder", CLERK)
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    (project / "herder" / "pylock.toml").write_text(LOCK.format(name=library.name, digest=digest))
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(
        text.replace("[project.entry", 'dependencies = ["shepherd>=2"]\n\n[project.entry')
    )
    return signed.build(project)


@pytest.fixture
async def host(daemon, signed, tmp_path):
    (tmp_path / "wheels").mkdir()
    one = daemon(supply={"wheel_directories": [str(tmp_path / "wheels")]}).start()
    await one.trust(signed.public, ["herder"])
    return one


async def test_a_plugin_uses_the_library_that_its_lock_names(host, library, release, tmp_path):
    (tmp_path / "wheels" / library.name).write_bytes(library.read_bytes())
    status, answer = await host.install(release)
    assert status == 201, answer
    status, answer = await host.ask("POST", "/api/v1/plugins/herder/call/count", json_body={"number": 3})
    assert (status, answer["data"]) == (200, "3 sheep"), answer
    _, bill = await host.ask("GET", "/api/v1/plugins/herder/bill-of-materials")
    assert [one["name"] for one in bill["components"]] == ["shepherd"]
    assert bill["components"][0]["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256(library.read_bytes()).hexdigest()}
    ]
    _, scan = await host.ask("GET", "/api/v1/plugins/herder/scan")
    assert scan["data"]["plugin"] == "herder"
    host.kill()
    host.start()

    async def counts():
        return (await host.ask("POST", "/api/v1/plugins/herder/call/count", json_body={"number": 4}))[0] == 200

    await host.until(counts)


@pytest.mark.parametrize("there", ["nothing", "other bytes"])
async def test_a_library_that_is_not_to_be_had_as_it_was_locked_refuses_the_release(
    host, library, release, tmp_path, there
):
    if there == "other bytes":
        (tmp_path / "wheels" / library.name).write_bytes(library.read_bytes() + b" ")
    status, answer = await host.install(release)
    assert (status, answer["code"]) == (
        422,
        "release_dependency_unavailable" if there == "nothing" else "release_dependency_mismatch",
    )
    assert not list((host.folder / "var" / "releases").iterdir())
    assert not list((host.folder / "var" / "staging").iterdir())
    assert (await host.ask("GET", "/api/v1/plugins"))[1]["data"] == []


async def test_a_library_that_is_tampered_with_stops_the_plugin(host, library, release, tmp_path):
    (tmp_path / "wheels" / library.name).write_bytes(library.read_bytes())
    await host.install(release)
    _, answer = await host.ask("GET", "/api/v1/plugins/herder")
    file = next((host.folder / "var" / "releases" / answer["data"]["release"]).rglob("shepherd.py"))
    file.chmod(0o644)
    file.write_text(LIBRARY.replace("sheep", "wolves"))

    async def stopped():
        return (await host.ask("GET", "/api/v1/plugins/herder"))[1]["data"]["cause"] == "release_modified"

    await host.until(stopped)
