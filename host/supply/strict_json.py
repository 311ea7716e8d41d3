"""JSON from strangers: no duplicate names, no NaN or infinity, bounded depth, integers that every reader agrees on."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**53
"""Integers from here on are not the same number to every reader (RFC 8259, section 6)."""


def loads(text: bytes) -> Any:
    """Decode strict JSON.

    Raises:
        ValueError: it is not, with why.
    """
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:  # else it cannot be too deep, and nobody need look
        _check_depth(text)
    return json.loads(
        text.decode("utf-8"),
        object_pairs_hook=_unique,
        parse_constant=_constant,
        parse_int=_integer,
        parse_float=_real,
    )


def _check_depth(text: bytes) -> None:
    depth = peak = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == 0x5C:  # noqa: PLR2004 - a backslash
                escaped = True
            elif char == 0x22:  # noqa: PLR2004 - a quote
                in_string = False
        elif char == 0x22:  # noqa: PLR2004 - a quote
            in_string = True
        elif char in b"[{":
            depth += 1
            peak = max(peak, depth)
        elif char in b"]}":
            depth -= 1
    if peak > MAX_DEPTH:
        raise ValueError(f"it nests {peak} levels deep; {MAX_DEPTH} are allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) >= MAX_INTEGER:  # noqa: PLR2004 - int() of endless digits is slow
        raise ValueError(f"an integer of {len(digits)} digits is too large")
    return int(digits)


def _real(digits: str) -> float:
    found = float(digits)
    if not math.isfinite(found):  # 1e999 reads as infinity, which no writer could have meant
        raise ValueError("a number is too large")
    return found
