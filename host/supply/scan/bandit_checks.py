"""bandit over a plugin's code, in a child, with all that a plugin could say to it switched off.

bandit obeys a `.bandit` file inside the tree, `# nosec` comments, and a list of excluded folders; it skips what it
cannot parse and still answers. None of that may decide here: whatever it has not read speaks against the release.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from host.supply.scan.child import ChildLimits, Ended, run, scratch
from host.supply.scan.distributions import SourceTree
from host.supply.scan.report import Check, Checked, CheckState, Finding, Severity, Source

NAME: Final = "bandit"
LIMITS: Final = ChildLimits()
_STATUSES: Final = (0, 1)
"""Its exit codes for no findings, and for findings or for files that it could not read."""


class _Issue(msgspec.Struct, frozen=True):
    filename: str
    line_number: int
    test_id: str
    issue_severity: str
    issue_confidence: str
    issue_text: str


class _Unread(msgspec.Struct, frozen=True):
    filename: str
    reason: str


class _Answer(msgspec.Struct, frozen=True):
    errors: list[_Unread]
    metrics: dict[str, msgspec.Raw]
    results: list[_Issue]


def bandit_version() -> str | None:
    """The version of bandit beside this host; None where there is none."""
    if importlib.util.find_spec("bandit") is None:
        return None
    return importlib.metadata.version("bandit")


async def check_with_bandit(trees: Sequence[SourceTree], *, limits: ChildLimits = LIMITS) -> Checked:
    """Let bandit look at trees of source; not done where it is not installed.

    Takes as long as it takes: bound it with `asyncio.timeout`.

    Raises:
        OSError: bandit cannot be started.
    """
    version = await asyncio.to_thread(bandit_version)
    if version is None:
        return Checked(
            Check(name=NAME, state=CheckState.NOT_DONE, reason="bandit is not installed: install busbar-host[scan]")
        )
    # What is excluded is matched anywhere in a path, so it is a word that no plugin can know beforehand.
    nothing = f"/{secrets.token_hex(16)}"
    async with scratch() as folder:
        ended = await run(
            *("bandit", "-q", "-r", "-f", "json", "--ini", "/dev/null", "--ignore-nosec", "-x", nothing),
            *(str(tree.folder) for tree in trees),
            folder=folder,
            limits=limits,
            site=True,
        )
    return await asyncio.to_thread(_checked, trees, ended, f"bandit {version}")


def _checked(trees: Sequence[SourceTree], ended: Ended, tool: str) -> Checked:
    if ended.too_much or ended.status not in _STATUSES:
        return not_analysed(_why(ended), tool)
    try:
        answer = msgspec.json.decode(ended.out, type=_Answer)
    except msgspec.MsgspecError as error:
        return not_analysed(f"bandit gave no answer that can be read ({error})", tool)
    looked_at = len(answer.metrics.keys() - {"_totals"})
    return Checked(
        Check(name=NAME, state=CheckState.DONE, tool=tool, looked_at=looked_at),
        [finding for tree in trees for finding in _findings(tree, answer)],
    )


def not_analysed(why: str, tool: str = "") -> Checked:
    """The result of a check that came to no end; it speaks against the release."""
    return Checked(
        Check(name=NAME, state=CheckState.NOT_DONE, reason=why, tool=tool),
        [_finding("not-analysed", Severity.HIGH, ".", 0, f"could not be analysed: {why}")],
    )


def _findings(tree: SourceTree, answer: _Answer) -> Iterator[Finding]:
    root = f"{tree.folder}{os.sep}"
    for issue in answer.results:
        if issue.filename.startswith(root):
            where = tree.shown(issue.filename.removeprefix(root))
            yield _finding(issue.test_id, _severity(issue), where, issue.line_number, issue.issue_text)
    for unread in answer.errors:
        if unread.filename.startswith(root):
            where = tree.shown(unread.filename.removeprefix(root))
            yield _finding("not-analysed", Severity.HIGH, where, 0, f"could not be analysed: {unread.reason}")
    for path in _sources(tree.folder):
        if str(path) not in answer.metrics:
            where = tree.shown(path.relative_to(tree.folder).as_posix())
            yield _finding("not-analysed", Severity.HIGH, where, 0, "was not looked at by bandit")


def _finding(rule: str, severity: Severity, path: str, line: int, message: str) -> Finding:
    return Finding(rule=rule, severity=severity, source=Source.BANDIT, path=path, line=line, message=message)


def _severity(issue: _Issue) -> Severity:
    """What it calls high is high where it is sure of it; a guess does not refuse a plugin."""
    if issue.issue_severity == "HIGH":
        return Severity.MEDIUM if issue.issue_confidence == "LOW" else Severity.HIGH
    return Severity.MEDIUM if issue.issue_severity == "MEDIUM" else Severity.LOW


def _sources(folder: Path) -> Iterator[Path]:
    for base, _, files in os.walk(folder):
        yield from (Path(base) / name for name in files if name.endswith(".py"))


def _why(ended: Ended) -> str:
    if ended.too_much:
        return "bandit printed more than it may"
    return f"bandit ended with status {ended.status}: {ended.last_words or 'without a word'}"
