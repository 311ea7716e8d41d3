"""The child's side of `child`: give up what a check does not need, then become the module that does the check.

Imports the standard library alone: it runs without `site` as well.
"""

from __future__ import annotations

import resource
import runpy
import sys


def main() -> None:
    """Run `MODULE ARGUMENTS...` under limits: the arguments are CPU seconds, bytes of memory, bytes of a file."""
    cpu_seconds, memory_bytes, file_bytes = (int(value) for value in sys.argv[1:4])
    for kind, wanted in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))
    sys.argv = sys.argv[4:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
