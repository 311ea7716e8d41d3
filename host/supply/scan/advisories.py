"""Known vulnerabilities of a release's dependencies, from the advisory source that the settings name.

A source that cannot be asked is no finding, and no silence either: the check says that it was not done, and why.
A snapshot that is too old is used all the same, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from host.supply.scan import advisory_service
from host.supply.scan.advisory_match import match
from host.supply.scan.advisory_service import ServiceError
from host.supply.scan.advisory_snapshot import Snapshot, SnapshotError, read_snapshot
from host.supply.scan.distributions import ScannedDistribution
from host.supply.scan.report import Check, Checked, CheckState

NAME: Final = "advisories"
PUBLIC_SERVICE: Final = "osv"
"""What the settings write for the public service of OSV."""


async def check_advisories(
    source: str, distributions: Sequence[ScannedDistribution], *, max_age: timedelta, now: datetime
) -> Checked:
    """Look the distributions up.

    Takes as long as it takes: bound it with `asyncio.timeout`.

    Args:
        source: A path, the URL of an OSV service's query endpoint, `osv` for the public one, or empty for none.
        distributions: What to look up.
        max_age: How old a snapshot may be.
        now: The time.

    Raises:
        OSError: pip-audit cannot be started.
    """
    if not distributions:
        return Checked(Check(name=NAME, state=CheckState.DONE, reason="the release brings no dependencies"))
    if not source:
        return not_done("no advisory source is set: [scan] advisories names a snapshot or a service")
    if source == PUBLIC_SERVICE or source.startswith(("http://", "https://")):
        return await _from_service(advisory_service.PUBLIC if source == PUBLIC_SERVICE else source, distributions, now)
    names = frozenset(distribution.name for distribution in distributions)
    try:
        snapshot = await asyncio.to_thread(read_snapshot, Path(source), names, now)
    except SnapshotError as error:
        return not_done(str(error))
    state, reason = _state(snapshot, now, max_age)
    matches = await asyncio.to_thread(match, distributions, snapshot.advisories)
    return Checked(
        Check(name=NAME, state=state, reason=reason, looked_at=len(distributions), data_from=snapshot.newest),
        [one.finding() for one in matches],
    )


def not_done(why: str, tool: str = "") -> Checked:
    """The result of an audit that was not done."""
    return Checked(Check(name=NAME, state=CheckState.NOT_DONE, reason=why, tool=tool))


async def _from_service(url: str, distributions: Sequence[ScannedDistribution], now: datetime) -> Checked:
    version = await asyncio.to_thread(advisory_service.pip_audit_version)
    if version is None:
        return not_done("pip-audit is not installed: install busbar-host[scan]")
    tool = f"pip-audit {version}"
    try:
        matches = await advisory_service.audit(url, distributions)
    except ServiceError as error:
        return not_done(str(error), tool)
    return Checked(
        Check(name=NAME, state=CheckState.DONE, tool=tool, looked_at=len(distributions), data_from=now),
        [one.finding() for one in matches],
    )


def _state(snapshot: Snapshot, now: datetime, max_age: timedelta) -> tuple[CheckState, str]:
    if snapshot.unreadable:
        return CheckState.NOT_DONE, f"{snapshot.unreadable} of {snapshot.entries} advisories cannot be read"
    if snapshot.newest is None:
        return CheckState.STALE, "no advisory of the snapshot says when it was changed"
    age = now - snapshot.newest
    if age > max_age:
        return CheckState.STALE, f"the newest advisory is {age.days} days old: bring the snapshot up to date"
    return CheckState.DONE, ""
