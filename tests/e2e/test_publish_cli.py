"""The guide for publishers, pasted from its first block to its last; then a host installs what came of it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, busbar

GUIDE = (ROOT / "docs" / "publisher.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- try: (\w+) -->\n```sh\n(.*?)```", GUIDE, re.DOTALL))
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "BUSBAR_KEY_PASSPHRASE": "correct horse",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the SDK's own suffices
}


class Published:
    """A publisher's folder after the guide, and what each block of it said."""

    def __init__(self, folder):
        self.folder = folder
        self.said = {}
        self.digests = {}
        self.wheel = folder / "shop-greeter" / "dist" / "shop_greeter-0.1.0-py3-none-any.whl"
        self.attestations = self.wheel.with_name(self.wheel.name + ".intoto.jsonl")

    def paste(self, name):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", BLOCKS[name]],
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        self.said[name] = done.stdout
        if self.wheel.exists():
            self.digests[name] = hashlib.sha256(self.wheel.read_bytes()).hexdigest()

    def lines(self):
        return self.attestations.read_text().splitlines()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    one = Published(tmp_path_factory.mktemp("publisher"))
    for name in BLOCKS:
        one.paste(name)
    return one


def test_every_example_of_the_guide_was_run():
    assert list(BLOCKS) == ["new", "build", "key", "trust", "sign", "ci", "second", "rotate"]
    assert GUIDE.count("```sh") == len(BLOCKS)


def test_a_new_project_passes_its_tests_and_keeps_within_its_manifest(published):
    assert "3 passed" in published.said["new"]
    assert "shop-greeter: the tests pass, and the code keeps within plugin.toml" in published.said["new"]


def test_each_signature_adds_a_line_and_none_changes_the_wheel(published):
    assert len(set(published.digests.values())) == 1
    assert json.loads(published.said["ci"])["validUntil"] == "2099-12-31T23:59:59+00:00"
    assert len(published.lines()) == 3  # that of CI, the reviewer's, and the new key's
    key = (published.folder / "acme.key").read_text()
    assert "ENCRYPTED" in key
    assert key not in published.attestations.read_text()


@pytest.mark.parametrize(("block", "policy"), [("sign", "acme; 1"), ("second", "acme, review-board; 2")])
def test_the_release_is_verified_rule_by_rule_as_the_guide_lists_them(published, block, policy):
    rows = re.findall(r"^(\S+(?: \S+)?) +(holds|broken|not reached) ", published.said[block], re.MULTILINE)
    listed = re.findall(r"^\| `([^`]+)` \| (?:is|are|does|can|may|have|one)\b", GUIDE, re.MULTILINE)
    assert rows == [(rule, "holds") for rule in listed]
    assert f"signed by {policy} needed" in published.said[block]


def test_pip_uv_and_installer_install_the_signed_wheel(published, tmp_path):
    """Judges of our own kind would not notice if it were no ordinary wheel any more."""
    target = str(tmp_path / "pip")
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False, symlinks=True)
    python = str(bare / "bin" / "python")
    judges = [
        [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--no-deps", "--target", target],
        [str(BIN / "uv"), "pip", "install", "--offline", "--no-index", "--no-deps", "--no-cache", "--python", python],
        [sys.executable, "-m", "installer", "--destdir", str(tmp_path / "installer")],
    ]
    for judge in judges:
        done = subprocess.run([*judge, str(published.wheel)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    installed = sorted(tmp_path.rglob("shop_greeter/plugin.toml"))
    assert len(installed) == len(judges)
    assert len({path.read_bytes() for path in installed}) == 1


async def test_a_host_installs_the_release_at_once_and_runs_it(published, daemon):
    host = daemon().start()
    public = busbar("key", "show", published.folder / "acme-2.key", env=ENVIRONMENT)
    await host.trust(public.stdout.split()[-1], ["shop"])
    environment = {"BUSBAR_URL": host.url, "BUSBAR_TOKEN": host.token}
    said = busbar("plugin", "install", published.wheel, "--enable", env=environment).stdout
    assert "shop-greeter 0.1.0 is running" in said
    await host.publish("shop-greeter.came", subject="Ada")

    async def greeted():
        _, answer = await host.ask("GET", "/api/v1/events", params={"type": "shop-greeter.greeted"})
        return [one["event"]["data"]["text"] for one in answer["data"]]

    assert await host.until(greeted) == ["Hello, Ada!"]
    assert host.stop() == 0
