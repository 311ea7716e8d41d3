"""The whole scan: one report of all checks, and what the policy makes of it."""

import asyncio
import errno
import json
import signal
import tempfile

import msgspec
import pytest

from host.errors import ErrorKind
from host.settings import Scan
from host.supply.scan import bandit_checks, scanner, source_checks
from host.supply.scan.child import ChildLimits, run
from host.supply.scan.errors import ScanRefusedError, ScanReportError
from host.supply.scan.report import (
    MAX_FINDINGS,
    Check,
    Checked,
    CheckState,
    Finding,
    ScanReport,
    Severity,
    Source,
)
from host.supply.scan.scanner import Scanner, ScanPolicy

CLEAN = {"acme_demo/__init__.py": "from plugin_sdk import Plugin\n\n\nclass Demo(Plugin):\n    pass\n"}


@pytest.fixture
def scan(tree, manifest, clock):
    async def scan(files, distributions=(), **policy):
        one = Scanner(ScanPolicy(**policy), clock)
        report = await one.scan(
            tree(files),
            plugin="acme-demo",
            version="1.0.0",
            sha256="a" * 64,
            manifest=manifest(),
            distributions=distributions,
        )
        return one, report

    return scan


def refusal(one, report):
    with pytest.raises(ScanRefusedError) as refused:
        one.refuse(report)
    return refused.value


async def test_a_clean_plugin_passes_and_the_report_claims_no_more_than_it_knows(scan, now):
    one, report = await scan(CLEAN)
    one.refuse(report)
    assert report.summary == "no known pattern found"
    assert report.worst is None
    assert report.scanned_at == now
    assert [check.name for check in report.checks] == ["advisories", "bandit", "source"]
    assert "safe" not in report.to_json().decode()


async def test_a_high_finding_refuses_and_is_named(scan):
    one, report = await scan({**CLEAN, "acme_demo/evil.py": "import base64\nexec(base64.b64decode(x))\n"})
    error = refusal(one, report)
    assert error.message.startswith("Plugin failed security scan: acme_demo/evil.py:2: ")
    assert (error.word, error.kind) == ("release_blocked_by_scan", ErrorKind.UNPROCESSABLE)
    assert report.worst is Severity.HIGH
    assert error.errors


async def test_a_refusal_names_a_few_findings_and_counts_the_others(scan):
    one, report = await scan({f"acme_demo/{number}.py": "# \u202e" for number in range(30)})
    error = refusal(one, report)
    assert len(error.errors) == 5
    assert error.message.endswith("; and 55 more")  # bandit sees them too


@pytest.mark.parametrize(("refuse", "refused"), [("high", False), ("medium", True), ("low", True), ("never", False)])
async def test_the_policy_says_from_which_severity_on_a_finding_refuses(scan, refuse, refused):
    one, report = await scan({"acme_demo/__init__.py": "import ctypes"}, refuse=refuse)
    assert report.worst is Severity.MEDIUM
    if refused:
        refusal(one, report)
    else:
        one.refuse(report)


async def test_known_vulnerabilities_of_dependencies_refuse_by_their_severity(scan, distribution, tmp_path, tree):
    snapshot = tmp_path / "osv.jsonl"
    affected = [{"package": {"name": "acme-lib", "ecosystem": "PyPI"}, "versions": ["1.0"]}]
    record = {"id": "GHSA-1", "modified": "2026-11-20T00:00:00Z", "affected": affected}
    snapshot.write_text(json.dumps({**record, "database_specific": {"severity": "CRITICAL"}}))
    lib = distribution("acme-lib", "1.0", folder=tree({"acme_lib.py": ""}, "lib"))
    one, report = await scan(CLEAN, [lib], advisories=str(snapshot))
    assert "acme-lib-1.0: no description [GHSA-1, high]" in refusal(one, report).message


async def test_bandit_looks_at_dependencies_where_the_settings_say_so(scan, distribution, tree):
    lib = distribution(
        "acme-lib", "1.0", folder=tree({"lib.py": "import subprocess\nsubprocess.call(x, shell=True)"}, "lib")
    )
    _, report = await scan(CLEAN, [lib])
    assert not [one for one in report.findings if one.source is Source.BANDIT]
    _, report = await scan(CLEAN, [lib], bandit_dependencies=True)
    assert ("B602", "acme-lib-1.0/lib.py") in {(one.rule, one.path) for one in report.findings}


async def test_what_is_required_and_missing_refuses(scan, distribution, monkeypatch):
    monkeypatch.setattr(bandit_checks, "bandit_version", lambda: None)
    one, report = await scan(CLEAN, bandit="require")
    assert "'bandit' is required" in refusal(one, report).message
    one, report = await scan(CLEAN)
    one.refuse(report)
    assert report.summary == "no known pattern found; not done: bandit"
    one, report = await scan(CLEAN, [distribution("a", "1")], advisories_required=True, advisories="/nonexistent")
    assert "'advisories' is required" in refusal(one, report).message


async def test_bandit_can_be_left_out(scan):
    _, report = await scan({"acme_demo/__init__.py": "assert x"}, bandit="off")
    assert report.check("bandit").state is CheckState.NOT_DONE
    assert report.worst is None


async def test_a_scan_that_takes_too_long_ends_and_refuses(scan, distribution, monkeypatch):
    ended = []

    async def endless(*_, **__):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    monkeypatch.setattr(source_checks, "check_source", endless)
    monkeypatch.setattr(bandit_checks, "check_with_bandit", endless)
    monkeypatch.setattr(scanner.advisories, "check_advisories", endless)
    one, report = await scan(CLEAN, [distribution("a", "1")], timeout=0.05)
    assert len(ended) == 3
    assert {check.state for check in report.checks} == {CheckState.NOT_DONE}
    assert [finding.source for finding in report.findings] == [Source.BANDIT, Source.SOURCE]
    assert "longer than 0.05 s" in refusal(one, report).message


async def test_a_scan_that_cannot_be_started_refuses(scan, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    one, report = await scan(CLEAN)
    assert [finding.source for finding in report.findings] == [Source.BANDIT, Source.SOURCE]
    assert "No space left on device" in refusal(one, report).message


async def test_where_the_tree_is_may_be_said_relatively(scan, tree, manifest, clock, monkeypatch):
    folder = tree({"acme_demo/__init__.py": "import subprocess\nsubprocess.call(x, shell=True)\n"})
    monkeypatch.chdir(folder.parent)
    relative = folder.relative_to(folder.parent)
    report = await Scanner(ScanPolicy(), clock).scan(
        relative, plugin="a", version="1", sha256="a" * 64, manifest=manifest(), distributions=()
    )
    assert {finding.path for finding in report.findings} == {"acme_demo/__init__.py"}
    assert {finding.source for finding in report.findings} == {Source.BANDIT, Source.SOURCE}


async def test_a_child_that_nobody_waits_for_is_killed(tmp_path, monkeypatch):
    started = []
    start = asyncio.create_subprocess_exec

    async def noted(*arguments, **options):
        started.append(await start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run("timeit", "while True: pass", folder=tmp_path, limits=ChildLimits(), site=False)
    assert started[0].returncode == -signal.SIGKILL


def test_the_settings_are_the_policy():
    assert ScanPolicy(**Scan().model_dump()) == ScanPolicy()


# The report


def finding(number=0, severity=Severity.LOW, **changes):
    values = {"rule": "r", "severity": severity, "source": Source.SOURCE, "path": f"{number:04}.py", "message": "m"}
    return Finding(**{**values, **changes})


def compose(now, *findings, left_out=None):
    check = Check(name="source", state=CheckState.DONE)
    return ScanReport.compose(
        plugin="a", version="1", sha256="a" * 64, scanned_at=now, results=[Checked(check, findings, left_out or {})]
    )


def test_a_report_is_read_back_as_it_was(now):
    report = compose(now, finding(severity=Severity.HIGH), finding(1), left_out={Severity.LOW: 3})
    assert ScanReport.from_json(report.to_json()) == report
    written = json.loads(report.to_json())
    assert written["scannedAt"] == "2026-11-20T10:00:00Z"
    assert written["leftOut"] == 3
    assert written["counts"] == {"high": 1, "medium": 0, "low": 4}


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b" " * (5 * 2**20)])
def test_bytes_that_are_no_report_are_refused(raw):
    with pytest.raises(ScanReportError):
        ScanReport.from_json(raw)


def test_a_report_keeps_the_worst_findings_and_counts_the_others(now):
    report = compose(now, *(finding(number) for number in range(1000)), finding(severity=Severity.HIGH))
    assert len(report.findings) == MAX_FINDINGS
    assert report.findings[0].severity is Severity.HIGH
    assert report.left_out == 1001 - MAX_FINDINGS
    assert report.summary == "findings: 1 high, 1000 low"


def test_what_strangers_write_is_shown_escaped_and_short(now):
    report = compose(now, finding(path="a\x1b[2K\n\ud800.py", message="x" * 5000 + "\u202e", rule="r\x00"))
    (shown,) = report.findings
    assert shown.path == "a\\x1b[2K\\n\\ud800.py"
    assert len(shown.message) == 300
    assert str(shown).isprintable()


def test_the_order_of_a_report_does_not_hang_on_the_order_of_the_checks(now):
    ones = [finding(number, severity) for number in range(3) for severity in Severity]
    assert compose(now, *ones) == compose(now, *reversed(ones))
    assert msgspec.json.decode(compose(now, *ones).to_json())["findings"][0]["severity"] == "high"
