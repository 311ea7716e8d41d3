"""One advisory in the OSV format: which versions it is about, and how bad it is.

The matching follows the evaluation algorithm of the OSV schema (https://ossf.github.io/osv-schema/, "Evaluation"),
with the versions of PEP 440. Where an advisory cannot be compared, the version counts as affected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, Final

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from host.supply.scan.advisory_severity import severity_of_score, severity_of_word
from host.supply.scan.report import Severity

ECOSYSTEM: Final = "PyPI"
UNKNOWN: Final = Severity.MEDIUM
"""The severity of an advisory that names none."""
_FIRST: Final = Version("0.dev0")
"""No version is before it; the format writes it `0`."""
# In this order where they name one version: a range may begin where another is mended, and be one version long.
_FIXED, _INTRODUCED, _LAST_AFFECTED = range(3)
_COMPARED: Final = frozenset({"ECOSYSTEM", "SEMVER"})


class Event(msgspec.Struct, frozen=True):
    """Where a range of affected versions begins or ends."""

    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None
    limit: str | None = None


class Range(msgspec.Struct, frozen=True):
    """Affected versions by their events."""

    type: str
    events: tuple[Event, ...] = ()


class Package(msgspec.Struct, frozen=True):
    """What is affected."""

    name: str
    ecosystem: str


class Score(msgspec.Struct, frozen=True):
    """A score, such as a CVSS vector."""

    type: str
    score: str


class Affected(msgspec.Struct, frozen=True):
    """Versions of one package that an advisory is about."""

    package: Package | None = None
    ranges: tuple[Range, ...] | None = None
    versions: tuple[str, ...] | None = None
    severity: tuple[Score, ...] | None = None
    database_specific: Any = None
    ecosystem_specific: Any = None

    @property
    def distribution(self) -> str | None:
        """The normalised name of the distribution that it is about; None where that is of another ecosystem."""
        package = self.package
        if package is None or package.ecosystem.partition(":")[0] != ECOSYSTEM:
            return None
        return canonicalize_name(package.name)

    def holds(self, version: Version) -> bool:
        """Whether that version is among the affected ones."""
        if any(_same(listed, version) for listed in self.versions or ()):
            return True
        return any(in_range(version, found.events) for found in self.ranges or () if found.type in _COMPARED)


class Advisory(msgspec.Struct, frozen=True):
    """An advisory, as far as it is read here; the format has more."""

    id: str
    modified: datetime | None = None
    withdrawn: str | None = None
    aliases: tuple[str, ...] | None = None
    summary: str | None = None
    details: str | None = None
    severity: tuple[Score, ...] | None = None
    affected: tuple[Affected, ...] | None = None
    database_specific: Any = None

    def about(self, name: str) -> tuple[Affected, ...]:
        """The parts that are about this distribution; `name` is normalised."""
        return tuple(affected for affected in self.affected or () if affected.distribution == name)

    def about_any(self, names: AbstractSet[str]) -> bool:
        """Whether it is about one of these distributions."""
        return any(affected.distribution in names for affected in self.affected or ())

    def affects(self, name: str, version: Version) -> bool:
        """Whether that version of that distribution is affected; a withdrawn advisory affects nothing."""
        return self.withdrawn is None and any(affected.holds(version) for affected in self.about(name))

    @property
    def names(self) -> frozenset[str]:
        """Its id and its other ids."""
        return frozenset({self.id, *(self.aliases or ())})

    @property
    def title(self) -> str:
        """What it is about, in a line."""
        text = self.summary or self.details or "no description"
        return text.strip().splitlines()[0] if text.strip() else "no description"

    def severity_for(self, name: str) -> Severity:
        """How bad it is, by the worst of what it says; `medium` where it says nothing that can be read."""
        parts: tuple[Advisory | Affected, ...] = (self, *self.about(name))
        scores = [item.score for part in parts for item in part.severity or ()]
        words = [part.database_specific.get("severity") for part in parts if isinstance(part.database_specific, dict)]
        read = (*map(severity_of_score, scores), *map(severity_of_word, words))
        found = [severity for severity in read if severity is not None]
        return max(found, key=lambda severity: severity.rank, default=UNKNOWN)

    def fixed_in(self, name: str) -> tuple[str, ...]:
        """The versions in which it is mended, in the order of the advisory."""
        return tuple(
            dict.fromkeys(
                event.fixed
                for affected in self.about(name)
                for found in affected.ranges or ()
                if found.type in _COMPARED
                for event in found.events
                if event.fixed is not None
            )
        )


def in_range(version: Version, events: Sequence[Event]) -> bool:
    """Whether a version lies in a range of affected versions; one whose events cannot be compared holds it."""
    try:
        turns = sorted(turn for event in events for turn in _turns(event))
        limits = [Version(event.limit) for event in events if event.limit not in {None, "*"}]
    except InvalidVersion:
        return True
    affected = False
    for at, kind in turns:
        if kind == _INTRODUCED:
            affected = affected or version >= at
        elif version > at or (kind == _FIXED and version == at):
            affected = False
    return affected and (not limits or any(version < limit for limit in limits))


def _turns(event: Event) -> Iterator[tuple[Version, int]]:
    if event.introduced is not None:
        yield (_FIRST if event.introduced == "0" else Version(event.introduced)), _INTRODUCED
    if event.fixed is not None:
        yield Version(event.fixed), _FIXED
    if event.last_affected is not None:
        yield Version(event.last_affected), _LAST_AFFECTED


def _same(listed: str, version: Version) -> bool:
    try:
        return Version(listed) == version
    except InvalidVersion:
        return False
