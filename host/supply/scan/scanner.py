"""The scan of one release: all checks at once, one report, and the policy that decides on it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from host.storage.errors import StorageFailedError
from host.supply.scan import advisories, bandit_checks, source_checks
from host.supply.scan.distributions import ScannedDistribution, SourceTree
from host.supply.scan.errors import ScanRefusedError
from host.supply.scan.report import Check, Checked, CheckState, ScanReport, Severity
from plugin_sdk.clock import Clock
from plugin_sdk.manifest import Manifest

AT_ONCE: Final = 2
"""Scans that run at once; each has up to three children. More wait."""
NAMED: Final = 5
"""Findings that a refusal names; the report has them all."""
_NO_CHILD: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Why a machine starts no more processes."""


@dataclass(frozen=True, slots=True)
class ScanPolicy:
    """What is scanned, and what refuses a release.

    Attributes:
        refuse: The least severity that does; `never` for none.
        bandit: `require` refuses where bandit is not installed, `auto` goes on without, `off` leaves it out.
        bandit_dependencies: Whether bandit looks at dependencies too.
        advisories: A path or a URL, `osv`, or empty; see `check_advisories`.
        advisories_max_age: Seconds after which a snapshot is stale.
        advisories_required: Whether an audit that was not done, or against a stale snapshot, refuses.
        timeout: Seconds that a scan may take.
    """

    refuse: Literal["high", "medium", "low", "never"] = "high"
    bandit: Literal["auto", "require", "off"] = "auto"
    bandit_dependencies: bool = False
    advisories: str = ""
    advisories_max_age: float = 7 * 86400.0
    advisories_required: bool = False
    timeout: float = 120.0


class Scanner:
    """Scans releases before they run. Nothing of a release is executed."""

    def __init__(self, policy: ScanPolicy, clock: Clock) -> None:
        self.policy = policy
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def scan(
        self,
        tree: Path,
        *,
        plugin: str,
        version: str,
        sha256: str,
        manifest: Manifest,
        distributions: Sequence[ScannedDistribution],
    ) -> ScanReport:
        """Run every check that the policy asks for; never longer than its timeout, once it is this scan's turn.

        A check of the code that comes to no end is a `high` finding; advisories that cannot be looked up are
        a check that was not done.

        Args:
            tree: The unpacked wheel of the plugin.
            plugin: Its id.
            version: Its version.
            sha256: The hash of its wheel.
            manifest: What it asks for.
            distributions: Its dependencies.

        Raises:
            StorageFailedError: the machine has too little to scan it.
        """
        policy = self.policy
        own = SourceTree(tree)
        others = [SourceTree(one.folder, f"{one.name}-{one.version}") for one in distributions]
        now = self._clock.now()
        async with self._turns, asyncio.TaskGroup() as group:
            until = asyncio.get_running_loop().time() + policy.timeout
            checks: tuple[tuple[Awaitable[Checked], Callable[[str], Checked]], ...] = (
                (
                    source_checks.check_source(own, others, manifest=manifest),
                    lambda why: source_checks.not_analysed(own.folder, why),
                ),
                (
                    self._bandit([own, *(others if policy.bandit_dependencies else ())]),
                    bandit_checks.not_analysed,
                ),
                (
                    advisories.check_advisories(
                        policy.advisories,
                        distributions,
                        max_age=timedelta(seconds=policy.advisories_max_age),
                        now=now,
                    ),
                    advisories.not_done,
                ),
            )
            tasks = [group.create_task(self._bounded(check, until, failed)) for check, failed in checks]
        results: list[Checked] = []
        for task in tasks:
            found = task.result()
            if isinstance(found, StorageFailedError):
                raise found
            results.append(found)
        return ScanReport.compose(plugin=plugin, version=version, sha256=sha256, scanned_at=now, results=results)

    def refuse(self, report: ScanReport) -> None:
        """Hold a report against the policy.

        Raises:
            ScanRefusedError: the policy does not let the release through.
        """
        reasons = self._missing(report)
        more = 0
        if self.policy.refuse != "never":
            least = Severity(self.policy.refuse).rank
            bad = [finding for finding in report.findings if finding.severity.rank >= least]
            total = sum(count for severity, count in report.counts.items() if severity.rank >= least)
            reasons += [str(finding) for finding in bad[:NAMED]]
            more = total - len(bad[:NAMED])
        if reasons:
            raise ScanRefusedError(reasons, more=more)

    def _missing(self, report: ScanReport) -> list[str]:
        """The checks without which the policy lets nothing through, where they are missing, and why."""
        missing = []
        for name, required in (
            (bandit_checks.NAME, self.policy.bandit == "require"),
            (advisories.NAME, self.policy.advisories_required),
        ):
            check = report.check(name)
            if required and (check is None or check.state is not CheckState.DONE):
                why = check.reason if check is not None else "it is not in the report"
                missing.append(f"the check '{name}' is required, and was not wholly done: {why}")
        return missing

    async def _bandit(self, trees: Sequence[SourceTree]) -> Checked:
        if self.policy.bandit == "off":
            reason = "it is switched off: [scan] bandit"
            return Checked(Check(name=bandit_checks.NAME, state=CheckState.NOT_DONE, reason=reason))
        return await bandit_checks.check_with_bandit(trees)

    async def _bounded(
        self, check: Awaitable[Checked], until: float, failed: Callable[[str], Checked]
    ) -> Checked | StorageFailedError:
        """What a check found; or the error to raise where the machine has too little: that says nothing of the code."""
        try:
            async with asyncio.timeout_at(until):
                return await check
        except TimeoutError:
            return failed(f"it took longer than {self.policy.timeout:g} s")
        except OSError as error:
            if error.errno in _NO_CHILD:
                return StorageFailedError(
                    f"the release cannot be scanned now ({error.strerror}): look at the machine's memory and its open "
                    "files, then install it again",
                    retry_after=1.0,
                )
            return failed(f"it could not be started: {error.strerror or error}")
