"""How bad an advisory is, from a word or from a CVSS 3 vector (https://www.first.org/cvss/v3.1/specification-document).

CVSS 4 has no formula but a table of 270 rows; advisories that carry it carry a word as well.
"""

from __future__ import annotations

import math
from typing import Final

from host.supply.scan.report import Severity

HIGH_FROM: Final = 7.0
MEDIUM_FROM: Final = 4.0
_WORDS: Final = {
    "CRITICAL": Severity.HIGH,
    "HIGH": Severity.HIGH,
    "IMPORTANT": Severity.HIGH,
    "MODERATE": Severity.MEDIUM,
    "MEDIUM": Severity.MEDIUM,
    "LOW": Severity.LOW,
}
_WEIGHTS: Final[dict[str, dict[str, float]]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES: Final = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}


def severity_of_word(word: object) -> Severity | None:
    """The severity that a word of an advisory database stands for; None for others."""
    return _WORDS.get(word.upper()) if isinstance(word, str) else None


def severity_of_score(score: str) -> Severity | None:
    """The severity of a CVSS 3 vector; None for what is none."""
    base = base_score(score)
    if base is None:
        return None
    if base >= HIGH_FROM:
        return Severity.HIGH
    return Severity.MEDIUM if base >= MEDIUM_FROM else Severity.LOW


def base_score(vector: str) -> float | None:
    """The base score of a CVSS 3.0 or 3.1 vector, 0 to 10; None where it is none."""
    version, *metrics = vector.strip().split("/")
    if version not in {"CVSS:3.0", "CVSS:3.1"}:
        return None
    found = dict(metric.partition(":")[::2] for metric in metrics)
    try:
        weight = {name: values[found[name]] for name, values in _WEIGHTS.items()}
        scope = found["S"]
        privileges = _PRIVILEGES[scope][found["PR"]]
    except KeyError:
        return None
    impact_base = 1 - (1 - weight["C"]) * (1 - weight["I"]) * (1 - weight["A"])
    changed = scope == "C"
    impact = 7.52 * (impact_base - 0.029) - 3.25 * (impact_base - 0.02) ** 15 if changed else 6.42 * impact_base
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * weight["AV"] * weight["AC"] * privileges * weight["UI"]
    return _round_up(min((1.08 if changed else 1.0) * (impact + exploitability), 10))


def _round_up(score: float) -> float:
    """To the next tenth, as the specification's appendix A does it without being fooled by floats."""
    whole = round(score * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (math.floor(whole / 10_000) + 1) / 10
