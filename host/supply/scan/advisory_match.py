"""Which advisories speak of which distributions, each vulnerability once, whatever it is called by whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from host.supply.scan.advisory import Advisory
from host.supply.scan.distributions import ScannedDistribution
from host.supply.scan.report import Finding, Severity, Source


@dataclass(frozen=True, slots=True)
class Match:
    """One vulnerability of one distribution. `names` are all its ids."""

    distribution: ScannedDistribution
    names: frozenset[str]
    severity: Severity
    title: str
    fixed_in: tuple[str, ...]

    @property
    def id(self) -> str:
        """The id that people know it by: its CVE number where it has one."""
        return min(self.names, key=lambda name: (not name.startswith("CVE-"), name))

    def finding(self) -> Finding:
        """The match as a finding of the report."""
        others = ", ".join(sorted(self.names - {self.id}))
        mended = f"; mended in {', '.join(self.fixed_in)}" if self.fixed_in else ""
        also = f" (also {others})" if others else ""
        return Finding(
            rule=self.id,
            severity=self.severity,
            source=Source.ADVISORY,
            path=f"{self.distribution.name}-{self.distribution.version}",
            message=f"{self.title}{mended}{also}",
        )


def match(distributions: Sequence[ScannedDistribution], advisories: Iterable[Advisory]) -> tuple[Match, ...]:
    """Hold each distribution against each advisory.

    A version that PEP 440 cannot read counts as affected by every advisory about its name.
    """
    found: list[Match] = []
    held = tuple(advisories)
    for distribution in distributions:
        found += _joined(
            Match(
                distribution,
                advisory.names,
                advisory.severity_for(distribution.name),
                advisory.title,
                advisory.fixed_in(distribution.name),
            )
            for advisory in held
            if _affects(advisory, distribution)
        )
    return tuple(found)


def _affects(advisory: Advisory, distribution: ScannedDistribution) -> bool:
    try:
        version = Version(distribution.version)
    except InvalidVersion:
        return advisory.withdrawn is None and bool(advisory.about(distribution.name))
    return advisory.affects(distribution.name, version)


def _joined(matches: Iterable[Match]) -> list[Match]:
    """One match for each vulnerability: those that share an id are about the same, and the worst severity holds."""
    joined: list[Match] = []
    for one in matches:
        same = [other for other in joined if other.names & one.names]
        joined = [other for other in joined if other not in same]
        group = [*same, one]
        worst = max(group, key=lambda item: item.severity.rank)
        joined.append(
            Match(
                one.distribution,
                frozenset().union(*(item.names for item in group)),
                worst.severity,
                worst.title,
                tuple(dict.fromkeys(version for item in group for version in item.fixed_in)),
            )
        )
    return joined
