"""How many processors the host may use: of the machine's, those that it is let run on, for the time it is given."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
"""What a container's control group has of processor time: two numbers, or `max` (cgroup v2)."""


def usable_processors(cpu_max: Path = CPU_MAX) -> int:
    """How many, at least one."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or one without a bound
        return allowed
