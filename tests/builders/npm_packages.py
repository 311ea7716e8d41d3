"""Packages of the npm registry, for the clients that only JavaScript has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "network")


def install_npm(folder: Path, package: str) -> Path:
    """`folder` with one package (`name@version`) under `node_modules`; the test is skipped where npm cannot get it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no node or npm on this machine")
    command = [npm, "install", "--prefix", str(folder), "--no-save", "--no-package-lock", "--ignore-scripts"]
    made = subprocess.run(
        [*command, "--no-audit", "--no-fund", "--fetch-retries=0", package],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if made.returncode and any(word in made.stderr for word in UNREACHABLE):
        pytest.skip(f"npm reaches no registry: {made.stderr.strip().splitlines()[0]}")
    assert made.returncode == 0, made.stderr
    return folder
