"""A script in an interpreter of its own: what gives up rights for good must not be the tests' own process."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

TRY = """
def tried(what):
    try:
        return [str(what()), ""]
    except OSError as error:
        return ["", type(error).__name__]
"""


def run(script, *arguments):
    """Run it; what it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, os, sys, socket\n{script}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
