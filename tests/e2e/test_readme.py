"""The README's tour, pasted as a new user would."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- tour: (\w+) -->\n```sh\n(.*?)```", re.DOTALL)


@pytest.mark.timeout(180)
async def test_the_tour_works_as_it_is_written(daemon, tmp_path):
    blocks = dict(BLOCK.findall((ROOT / "README.md").read_text()))
    assert list(blocks) == ["token", "paths", "write", "sign", "install", "publish", "break", "mend"]
    host = daemon(breaker={"open_for": "12s"}).start(cold=True)

    async def paste(name):
        script = blocks[name].replace("http://127.0.0.1:8700", host.url).replace("sleep 65", "sleep 24")
        script = script.replace("$PWD/.venv/bin", str(Path(sys.executable).parent))
        return await asyncio.to_thread(
            lambda: subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=tmp_path,
                env={**os.environ, "BUSBAR_URL": host.url, "BUSBAR_TOKEN": host.token, "PATH": path},
                capture_output=True,
                text=True,
                timeout=90,
            )
        )

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = {}
    for name in blocks:
        if name == "token":
            continue
        done = await paste(name)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        said[name] = done.stdout + done.stderr
    assert "release_unknown_publisher" in said["install"]
    assert "greeter 1.0.0 is running" in said["install"]
    assert "Hello, Ada!" in said["publish"]
    assert "degraded" in said["break"]
    assert "breaker is open" in said["break"]
    assert "running" in said["mend"]
    for name in ("Ada", "Bob", "Gus"):
        assert re.search(rf"greeting\.said.*{name}", said["mend"]), said["mend"]
    assert host.stop() == 0
