"""The report of a scan: what was found, what was looked at and what was not, in a form that is kept and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from host.supply.scan.errors import ScanReportError

MAX_FINDINGS: Final = 200
"""Findings that a report keeps, the most severe first; the others are counted."""
MAX_REPORT_BYTES: Final = 4 * 2**20
MAX_MESSAGE: Final = 300
MAX_PATH: Final = 600
NOTHING_FOUND: Final = "no known pattern found"


class Severity(StrEnum):
    """How bad a finding is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """Grows with severity, from 0."""
        return _RANKS[self]


_RANKS: Final = {severity: rank for rank, severity in enumerate(Severity)}


class Source(StrEnum):
    """Who found it: bandit, our own checks of the source, or an advisory source."""

    BANDIT = "bandit"
    SOURCE = "source"
    ADVISORY = "advisory"


class CheckState(StrEnum):
    """Whether a check was done; `stale` is done against data that is older than the settings allow."""

    DONE = "done"
    STALE = "stale"
    NOT_DONE = "not-done"


class Finding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing that was found. `line` counts from 1; 0 is the file, or the distribution, as a whole."""

    rule: str
    severity: Severity
    source: Source
    path: str
    line: int = 0
    message: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.message} [{self.rule}, {self.severity}]"


class Check(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one check did.

    Attributes:
        name: `source`, `bandit` or `advisories`.
        state: Whether it was done.
        reason: Why not, or why not wholly; empty where all went well.
        tool: What did it, with its version; empty where it is the host itself.
        looked_at: How many files, or distributions, it looked at.
        data_from: How fresh the data is that it compared with, where it compares with any.
    """

    name: str
    state: CheckState
    reason: str = ""
    tool: str = ""
    looked_at: int = 0
    data_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check did and found; `left_out` counts what it found beyond `findings`, by severity."""

    check: Check
    findings: Sequence[Finding] = ()
    left_out: Mapping[Severity, int] = field(default_factory=dict)


class ScanReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of one release after a scan.

    Attributes:
        plugin: The plugin's id.
        version: Its version.
        sha256: The release.
        scanned_at: When.
        checks: What was done and what was not, and why.
        findings: At most `MAX_FINDINGS`, the most severe first.
        left_out: How many more there are.
        counts: All findings by severity, those that are left out too.
        summary: One line of it all.
    """

    plugin: str
    version: str
    sha256: str
    scanned_at: datetime
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    left_out: int
    counts: dict[Severity, int]
    summary: str

    @classmethod
    def compose(
        cls, *, plugin: str, version: str, sha256: str, scanned_at: datetime, results: Sequence[Checked]
    ) -> ScanReport:
        """Put together what the checks found, in the same order whatever order they ended in."""
        found = sorted(
            (_cleaned(finding) for result in results for finding in result.findings),
            key=lambda finding: (-finding.severity.rank, finding.source, finding.path, finding.line, finding.rule),
        )
        counts = Counter(finding.severity for finding in found)
        for result in results:
            counts.update(result.left_out)
        kept = tuple(found[:MAX_FINDINGS])
        checks = tuple(
            msgspec.structs.replace(result.check, reason=printable(result.check.reason, MAX_MESSAGE))
            for result in sorted(results, key=lambda result: result.check.name)
        )
        return cls(
            plugin=plugin,
            version=version,
            sha256=sha256,
            scanned_at=scanned_at,
            checks=checks,
            findings=kept,
            left_out=counts.total() - len(kept),
            counts={severity: counts[severity] for severity in reversed(Severity)},
            summary=_summary(counts, checks),
        )

    @property
    def worst(self) -> Severity | None:
        """The highest severity among all findings; None where nothing was found."""
        return max((severity for severity, count in self.counts.items() if count), key=_RANKS.get, default=None)  # type: ignore[arg-type]  # every severity has a rank

    def check(self, name: str) -> Check | None:
        """What the check of that name did."""
        return next((check for check in self.checks if check.name == name), None)

    def to_json(self) -> bytes:
        """The report as it is kept with the release and shown by the API, names in camelCase."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, raw: bytes) -> ScanReport:
        """Read a report that was kept.

        Raises:
            ScanReportError: the bytes are no report.
        """
        if len(raw) > MAX_REPORT_BYTES:
            raise ScanReportError(
                f"a report has at most {MAX_REPORT_BYTES} bytes, not {len(raw)}: scan the release anew"
            )
        try:
            return msgspec.json.decode(raw, type=cls)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise ScanReportError(f"the report of the scan cannot be read ({error}): scan the release anew") from None


def _summary(counts: Counter[Severity], checks: Sequence[Check]) -> str:
    found = ", ".join(f"{counts[severity]} {severity}" for severity in reversed(Severity) if counts[severity])
    text = f"findings: {found}" if found else NOTHING_FOUND
    undone = [check.name for check in checks if check.state is CheckState.NOT_DONE]
    stale = [check.name for check in checks if check.state is CheckState.STALE]
    if undone:
        text += "; not done: " + ", ".join(undone)
    if stale:
        text += "; against old data: " + ", ".join(stale)
    return text


def _cleaned(finding: Finding) -> Finding:
    """A finding that is safe to print: names and texts in it come from strangers."""
    return msgspec.structs.replace(
        finding,
        rule=printable(finding.rule, 100),
        path=printable(finding.path, MAX_PATH),
        message=printable(finding.message, MAX_MESSAGE),
    )


def printable(text: str, limit: int) -> str:
    """The text with everything that is not printable escaped, cut to `limit` characters."""
    cut = text[: limit + 1]
    if not cut.isprintable():
        cut = "".join(
            char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in cut
        )
    return cut if len(cut) <= limit else cut[: limit - 1] + "…"
