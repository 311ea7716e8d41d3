"""What `make run` starts with: the first-party plugins, built, signed and dropped in."""

import subprocess
import sys
from pathlib import Path

from host.cli.bundle import BUNDLED

ROOT = Path(__file__).parents[2]


def bundle(state):
    """Runs the helper; answers the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "host.cli.bundle", "--state", str(state)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_a_daemon_started_on_the_bundle_runs_every_first_party_plugin(daemon, tmp_path):
    assert len(bundle(tmp_path / "var")) == len(BUNDLED)
    host = daemon(
        supply={
            "publishers_directory": str(tmp_path / "var" / "publishers.d"),
            "drop_in_directory": str(tmp_path / "var" / "bundled"),
        }
    ).start()

    async def states():
        _, answer = await host.ask("GET", "/api/v1/plugins")
        return {one["id"]: one["state"] for one in answer["data"]}

    async def all_running():
        return await states() == dict.fromkeys(BUNDLED, "running")

    await host.until(all_running)
    assert host.stop() == 0


def test_what_did_not_change_is_not_built_again(tmp_path):
    bundle(tmp_path)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "bundled").iterdir()}
    assert bundle(tmp_path) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "bundled").iterdir()} == made
