"""The numbers of policies: finite, and in their ranges."""

from __future__ import annotations

import math
from typing import Any


def check(policy: object, name: str, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Refuse a policy whose field is no finite number from `least` (or only above it) to `most`."""
    number(name, getattr(policy, name), least, most, above=above)


def number(name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Refuse a value that is no finite number from `least` (or only above it) to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value!r}")
    if value < least or (above and value == least) or value > most:
        bounds = f"{'above' if above else 'at least'} {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
        raise ValueError(f"{name} is {bounds}, not {value!r}")
