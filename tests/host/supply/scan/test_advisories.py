"""Advisory sources: a snapshot in each of its forms, and an OSV service asked by the real pip-audit."""

import json
import zipfile
from datetime import timedelta

import pytest
from aiohttp import web
from packaging.utils import canonicalize_name
from packaging.version import Version

from host.supply.scan import advisory_service, advisory_snapshot
from host.supply.scan.advisories import check_advisories
from host.supply.scan.advisory_match import match
from host.supply.scan.advisory_service import ServiceError, audit
from host.supply.scan.advisory_snapshot import SnapshotError, read_snapshot
from host.supply.scan.report import CheckState

WEEK = timedelta(days=7)


def record(number, name, *ranges, **more):
    """An advisory as OSV writes it; each range is `(introduced, fixed)`."""
    events = [event for low, high in ranges for event in ({"introduced": low}, {"fixed": high})]
    return {
        "schema_version": "1.7.0",
        "id": f"PYSEC-2026-{number}",
        "modified": "2026-11-18T10:00:00Z",
        "published": "2026-11-01T10:00:00Z",
        "aliases": [f"CVE-2026-{number}"],
        "summary": f"Hole {number}",
        "affected": [
            {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
        ],
        **more,
    }


RECORDS = [
    record(1, "acme-lib", ("0", "2.0"), database_specific={"severity": "HIGH"}),
    record(2, "acme-lib", ("1.5", "1.7"), ("3.0", "3.1")),
    record(3, "other-lib", ("0", "9")),
    record(4, "acme-lib", ("0", "99"), withdrawn="2026-11-10T00:00:00Z"),
]


@pytest.fixture
def snapshot(tmp_path):
    """Writes a snapshot in one of its forms."""

    def write(form, records=RECORDS):
        texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
        if form == "folder":
            path = tmp_path / "osv"
            (path / "PyPI").mkdir(parents=True, exist_ok=True)
            for number, text in enumerate(texts):
                (path / "PyPI" / f"{number}.json").write_bytes(text)
        elif form == "lines":
            path = tmp_path / "osv.jsonl"
            path.write_bytes(b"\n".join(texts) + b"\n\n")
        else:
            path = tmp_path / "all.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for number, text in enumerate(texts):
                    archive.writestr(f"{number}.json", text)
                archive.writestr("README.md", "x")
        return str(path)

    return write


@pytest.mark.parametrize("form", ["folder", "lines", "zip"])
async def test_a_snapshot_tells_what_is_known_of_each_dependency(snapshot, distribution, now, form):
    wanted = [distribution("acme-lib", "1.6"), distribution("clean", "1.0")]
    checked = await check_advisories(snapshot(form), wanted, max_age=WEEK, now=now)
    assert {(one.rule, str(one.severity)) for one in checked.findings} == {
        ("CVE-2026-1", "high"),
        ("CVE-2026-2", "medium"),
    }
    assert checked.check.state is CheckState.DONE
    assert checked.check.looked_at == 2
    assert checked.check.data_from.isoformat() == "2026-11-18T10:00:00+00:00"


async def test_a_snapshot_that_is_too_old_is_used_and_says_so(snapshot, distribution, now):
    checked = await check_advisories(snapshot("lines"), [distribution("acme-lib", "1.0")], max_age=WEEK, now=now + WEEK)
    assert checked.check.state is CheckState.STALE
    assert "9 days old" in checked.check.reason
    assert checked.findings


async def test_an_advisory_from_the_future_keeps_no_snapshot_fresh(snapshot, distribution, now):
    records = [*RECORDS, record(9, "x", ("0", "1"), modified="2036-01-01T00:00:00Z")]
    checked = await check_advisories(snapshot("lines", records), [distribution("a", "1")], max_age=WEEK, now=now + WEEK)
    assert checked.check.state is CheckState.STALE


async def test_a_snapshot_without_a_time_is_stale(snapshot, distribution, now):
    records = [{key: value for key, value in RECORDS[0].items() if key != "modified"}]
    checked = await check_advisories(snapshot("lines", records), [distribution("a", "1")], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.STALE


@pytest.mark.parametrize("broken", [b"{", b'{"id": 1}', b"[]", b'{"id": "x", "affected": 3}', b"[" * 100_000, b"\xff"])
async def test_an_advisory_that_cannot_be_read_leaves_the_audit_undone(snapshot, distribution, now, broken):
    source = snapshot("folder", [*RECORDS, broken])
    checked = await check_advisories(source, [distribution("acme-lib", "1.0")], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.NOT_DONE
    assert "1 of 5 advisories cannot be read" in checked.check.reason
    assert {one.rule for one in checked.findings} == {"CVE-2026-1"}  # what could be read still counts


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive"])
async def test_a_snapshot_that_is_none_leaves_the_audit_undone(tmp_path, distribution, now, content):
    path = tmp_path / "snapshot"
    if content is not None:
        path.write_bytes(content)
    checked = await check_advisories(str(path), [distribution("acme-lib", "1.0")], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.NOT_DONE
    assert not checked.findings


@pytest.mark.parametrize("form", ["folder", "lines", "zip"])
def test_what_a_snapshot_may_hold_is_bounded(snapshot, now, monkeypatch, form):
    path = advisory_snapshot.Path(snapshot(form, [*RECORDS, b'{"id": "x", "details": "' + b"x" * 100_000 + b'"}']))
    assert read_snapshot(path, {"acme-lib"}, now).entries == 5
    for bound, value in (("MAX_ENTRY", 50_000), ("MAX_TOTAL", 50_000), ("MAX_ENTRIES", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(advisory_snapshot, bound, value)
            with pytest.raises(SnapshotError):
                read_snapshot(path, {"acme-lib"}, now)


async def test_without_a_source_or_without_dependencies_the_report_says_so(distribution, now):
    checked = await check_advisories("", [distribution("a", "1")], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.NOT_DONE
    checked = await check_advisories("", [], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.DONE


# The service


@pytest.fixture
def service(aiohttp_server):
    """An OSV service on this machine, with a matcher of its own; `answer` replaces what it says."""

    async def start(records=RECORDS, *, answer=None):
        def affected(one, name, version):
            if any(part["package"]["name"] != name for part in one["affected"]):
                return False
            events = [event for part in one["affected"] for found in part["ranges"] for event in found["events"]]
            pairs = zip(events[::2], events[1::2], strict=True)
            return any(Version(low["introduced"]) <= Version(version) < Version(high["fixed"]) for low, high in pairs)

        async def query(request):
            if answer is not None:
                return answer()
            asked = json.loads(await request.text())  # pip-audit sends no content type
            assert asked["package"]["ecosystem"] == "PyPI"
            name = canonicalize_name(asked["package"]["name"])
            found = [one for one in records if affected(one, name, asked["version"])]
            return web.json_response({"vulns": found} if found else {})

        application = web.Application()
        application.router.add_post("/v1/query", query)
        server = await aiohttp_server(application)
        return str(server.make_url("/v1/query"))

    return start


async def test_pip_audit_and_the_own_matcher_say_the_same(service, snapshot, distribution, now):
    versions = ("1.0", "1.5", "1.6", "1.7", "2.0", "2.0rc1", "3.0", "3.0.post1", "3.1")
    wanted = [distribution(f"lib-{number}", version) for number, version in enumerate(versions)]
    records = [
        advisory
        for number, one in enumerate(wanted)
        for advisory in (
            record(10 * number, one.name, ("0", "2.0"), database_specific={"severity": "HIGH"}),
            record(10 * number + 1, one.name, ("1.5", "1.7"), ("3.0", "3.1")),
            record(10 * number + 2, one.name, ("0", "99"), withdrawn="2026-11-10T00:00:00Z"),
        )
    ]
    online = await audit(await service(records), wanted)
    path, names = advisory_snapshot.Path(snapshot("zip", records)), {one.name for one in wanted}
    local = match(wanted, read_snapshot(path, names, now).advisories)
    assert sorted(online, key=lambda one: one.id) == sorted(local, key=lambda one: one.id)
    assert {one.distribution.version for one in local} == {"1.0", "1.5", "1.6", "1.7", "2.0rc1", "3.0", "3.0.post1"}


async def test_what_the_service_knows_is_a_finding_of_its_severity(service, distribution, now):
    url = await service()
    checked = await check_advisories(url, [distribution("acme-lib", "1.6")], max_age=WEEK, now=now)
    assert {(one.rule, str(one.severity)) for one in checked.findings} == {
        ("CVE-2026-1", "high"),
        ("CVE-2026-2", "medium"),
    }
    assert checked.check.state is CheckState.DONE
    assert checked.check.tool.startswith("pip-audit 2.")


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=500),
        lambda: web.Response(text="not JSON"),
        lambda: web.json_response({"error": "x"}),
        lambda: web.json_response({"vulns": [{"id": "GHSA-1"}]}),
        lambda: web.json_response({"vulns": [{**RECORDS[0], "schema_version": "2.0.0"}]}),
    ],
    ids=["an error", "no JSON", "other JSON", "nothing affected", "another schema"],
)
async def test_a_service_whose_answer_cannot_be_read_leaves_the_audit_undone(service, distribution, now, answer):
    url = await service(answer=answer)
    checked = await check_advisories(url, [distribution("acme-lib", "1.0")], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.NOT_DONE
    assert "pip-audit" in checked.check.reason
    assert not checked.findings


async def test_a_service_that_is_not_there_leaves_the_audit_undone(unused_tcp_port, distribution, now):
    url = f"http://127.0.0.1:{unused_tcp_port}/v1/query"
    checked = await check_advisories(url, [distribution("acme-lib", "1.0")], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.NOT_DONE


async def test_a_distribution_that_pip_audit_leaves_out_leaves_the_audit_undone(service, distribution):
    with pytest.raises(ServiceError):
        await audit(await service(), [distribution("acme-lib", "last-week")])


async def test_without_pip_audit_the_check_says_that_it_was_not_done(distribution, now, monkeypatch):
    monkeypatch.setattr(advisory_service, "pip_audit_version", lambda: None)
    checked = await check_advisories("http://127.0.0.1:9/", [distribution("a", "1")], max_age=WEEK, now=now)
    assert checked.check.state is CheckState.NOT_DONE
    assert "busbar-host[scan]" in checked.check.reason
