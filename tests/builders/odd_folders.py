"""Data folders as no honest plugin has them, and a user who may not do everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOME = 64 * 1024


def nest(folder: Path, depth: int, name: str = "n" * 200) -> None:
    """Folders in folders, and a file in the last one; each is made from within the one above."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(file, bytes(SOME))
    os.close(file)
    os.close(here)


def without_rights(script: str, *, imports: str = "") -> Any:
    """Run a script as a user who may not do everything; what it printed, as JSON."""
    # All is imported before: Python itself may lie where others cannot read.
    prelude = (
        "import json, os, shutil, sys, tempfile\nfrom pathlib import Path\n"
        f"from host.runtime.data_folder import UncountableError, usage\n{imports}\n"
    )
    drop = "os.setgroups([]); os.setgid(65534); os.setuid(65534)" if os.geteuid() == 0 else "pass"
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}{drop}\n{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
