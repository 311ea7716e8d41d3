"""Why filters do not match an event: one clause and one sentence for each part that made them fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_LONGEST_SHOWN: Final = 80
_MOST_VALUES: Final = 3
_MOST_MISSES: Final = 5
_EXACT: Final = 2**53
"""Whole numbers up to here are shown digit by digit; others as the double that they compare as."""


@dataclass(frozen=True, slots=True)
class FailedClause:
    """One clause that does not hold: its position among the filters, and why, as a sentence without a full stop."""

    path: str
    reason: str


def shown(value: Any) -> str:
    """A value of an event or a filter, for a sentence: quoted where it is text, and cut where it is long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    number = double(value)
    return str(int(number)) if abs(number) <= _EXACT and number.is_integer() else repr(number)


def double(value: float) -> float:
    """A JSON number as the IEEE 754 double that it compares as; infinite where it is beyond them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def mismatch(name: str, values: Sequence[Any], misses: Sequence[str]) -> str:
    """The sentence for a field that has `values`, none of which is what was wanted.

    Args:
        name: The field, as dotted names.
        values: Every single value that it has.
        misses: What is wrong with them, as "does not start with 'c.'".
    """
    why = " and ".join(misses[:_MOST_MISSES])
    if len(misses) > _MOST_MISSES:
        why += f" and fits none of the {len(misses) - _MOST_MISSES} others"
    if len(values) == 1:
        return f"{name} is {shown(values[0])}, which {why}"
    some = ", ".join(map(shown, values[:_MOST_VALUES]))
    rest = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
    return f"{name} has the values {some}{rest}, each of which {why}"
