"""Which versions an advisory is about, and how bad it is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from host.supply.scan.advisory import Advisory, Event, in_range
from host.supply.scan.advisory_match import match
from host.supply.scan.advisory_severity import base_score
from host.supply.scan.report import Severity


def advisory(*, name="acme-lib", ecosystem="PyPI", events=(), versions=None, kind="ECOSYSTEM", **more):
    affected = {"package": {"name": name, "ecosystem": ecosystem}, **more.pop("affected", {})}
    if events:
        affected["ranges"] = [{"type": kind, "events": list(events)}]
    if versions is not None:
        affected["versions"] = versions
    return msgspec.convert({"id": "GHSA-1", "affected": [affected], **more}, Advisory)


def affects(version, **of_advisory):
    return advisory(**of_advisory).affects("acme-lib", Version(version))


MENDED = ({"introduced": "0"}, {"fixed": "2.0"})
TWICE = ({"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"last_affected": "2.5"})
CASES = [
    ("before the mend", {"events": MENDED}, "1.9", True),
    ("a candidate of the mend", {"events": MENDED}, "2.0rc1", True),
    ("the mend", {"events": MENDED}, "2.0", False),
    ("the mend, built locally", {"events": MENDED}, "2.0+acme", False),
    ("a post-release of the mend", {"events": MENDED}, "2.0.post1", False),
    ("the very first", {"events": MENDED}, "0.dev0", True),
    ("another epoch", {"events": MENDED}, "1!0.1", False),
    ("before the first range", {"events": TWICE}, "0.9", False),
    ("in the first range", {"events": TWICE}, "1.1", True),
    ("between two ranges", {"events": TWICE}, "1.5", False),
    ("in the second range", {"events": TWICE}, "2.5", True),
    ("behind the last affected", {"events": TWICE}, "2.6", False),
    ("ranges in any order", {"events": tuple(reversed(TWICE))}, "1.5", False),
    ("one version, named twice", {"events": ({"introduced": "1.5"}, {"last_affected": "1.5"})}, "1.5", True),
    ("behind a range of one version", {"events": ({"introduced": "1.5"}, {"last_affected": "1.5"})}, "1.6", False),
    ("never mended", {"events": ({"introduced": "0"},)}, "99", True),
    ("within a limit", {"events": ({"introduced": "0"}, {"limit": "3"})}, "2", True),
    ("beyond a limit", {"events": ({"introduced": "0"}, {"limit": "3"})}, "3", False),
    ("listed", {"versions": ["1.0", "1.1"]}, "1.1", True),
    ("listed in another spelling", {"versions": ["1.0.0"]}, "1.0", True),
    ("not listed", {"versions": ["1.0", "not a version"]}, "1.2", False),
    ("listed, though outside the range", {"versions": ["3.0"], "events": MENDED}, "3.0", True),
    ("a commit range", {"events": ({"introduced": "0"},), "kind": "GIT"}, "1.0", False),
    ("a range that cannot be compared", {"events": ({"introduced": "0"}, {"fixed": "yesterday"})}, "1.0", True),
    ("another ecosystem", {"events": MENDED, "ecosystem": "npm"}, "1.0", False),
    ("another distribution", {"events": MENDED, "name": "acme"}, "1.0", False),
    ("the same in another spelling", {"events": MENDED, "name": "Acme_Lib"}, "1.0", True),
    ("withdrawn", {"events": MENDED, "withdrawn": "2026-01-01T00:00:00Z"}, "1.0", False),
    ("nothing said", {}, "1.0", False),
]


@pytest.mark.parametrize(
    ("given_", "version", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_version_is_affected_as_the_osv_schema_says(given_, version, expected):
    assert affects(version, **given_) is expected


parts = st.integers(0, 4)
versions = st.builds(
    lambda major, minor, tail: Version(f"{major}.{minor}{tail}"),
    parts,
    parts,
    st.sampled_from(["", "a1", "rc1", ".post1", ".dev0"]),
)


@given(versions, versions, versions)
def test_a_range_to_a_mend_is_the_set_between(version, first, mended):
    events = [Event(introduced=str(first)), Event(fixed=str(mended))]
    inside = SpecifierSet(f">={first}", prereleases=True).contains(version) and version < mended
    # A mend that comes before its range, or at its beginning, ends nothing.
    expected = version >= first if mended <= first else inside
    assert in_range(version, events) is expected


@given(versions, versions, versions)
def test_a_range_to_a_last_version_holds_both_its_ends(version, first, last):
    events = [Event(introduced=str(first)), Event(last_affected=str(last))]
    expected = version >= first if last < first else first <= version <= last
    assert in_range(version, events) is expected


@given(versions, st.lists(versions, min_size=2, max_size=6, unique=True), st.randoms())
def test_several_ranges_hold_what_one_of_them_holds_in_any_order(version, bounds, random):
    bounds = sorted(bounds)[: len(bounds) // 2 * 2]
    pairs = list(zip(bounds[::2], bounds[1::2], strict=True))
    events = [event for low, high in pairs for event in (Event(introduced=str(low)), Event(fixed=str(high)))]
    random.shuffle(events)
    assert in_range(version, events) is any(low <= version < high for low, high in pairs)


# Severity

SCORES = [
    ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
    ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
    ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
    ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
    ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:N/A:N", 5.9),
    ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:L/E:P/RL:O", 5.3),
    ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N", 1.6),
    ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
    ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", None),
    ("CVSS:3.1/AV:N", None),
    ("CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", None),
    ("AV:N/AC:L/Au:N/C:P/I:P/A:P", None),
    ("", None),
]


@pytest.mark.parametrize(("vector", "score"), SCORES)
def test_the_base_score_of_a_vector(vector, score):
    assert base_score(vector) == score


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ({"database_specific": {"severity": "CRITICAL"}}, "high"),
        ({"database_specific": {"severity": "moderate"}}, "medium"),
        ({"database_specific": {"severity": "LOW"}}, "low"),
        ({"severity": [{"type": "CVSS_V3", "score": SCORES[0][0]}]}, "high"),
        ({"severity": [{"type": "CVSS_V3", "score": SCORES[6][0]}]}, "low"),
        ({"affected": {"database_specific": {"severity": "HIGH"}}}, "high"),
        ({"affected": {"severity": [{"type": "CVSS_V3", "score": SCORES[2][0]}]}}, "high"),
        ({"database_specific": {"severity": "LOW"}, "severity": [{"type": "CVSS_V3", "score": SCORES[0][0]}]}, "high"),
        ({}, "medium"),
        ({"database_specific": {"severity": 7}}, "medium"),
        ({"database_specific": ["HIGH"]}, "medium"),
        ({"severity": [{"type": "CVSS_V4", "score": SCORES[8][0]}]}, "medium"),
    ],
)
def test_the_severity_is_the_worst_that_the_advisory_says_and_medium_where_it_says_none(more, severity):
    assert advisory(**more).severity_for("acme-lib") == severity


# Matching


def test_a_vulnerability_with_several_advisories_is_one_finding_of_the_worst_severity(distribution):
    ghsa = advisory(events=MENDED, aliases=["CVE-2026-1"], database_specific={"severity": "HIGH"}, summary="A hole")
    pysec = advisory(events=MENDED, aliases=["CVE-2026-1", "GHSA-1"], details="A hole\nin it")
    pysec = msgspec.structs.replace(pysec, id="PYSEC-1")
    other = msgspec.structs.replace(advisory(events=MENDED), id="GHSA-2")
    found = match([distribution("acme-lib", "1.0")], [pysec, ghsa, other])
    assert {(one.id, one.severity) for one in found} == {("CVE-2026-1", Severity.HIGH), ("GHSA-2", Severity.MEDIUM)}
    finding = next(one.finding() for one in found if one.id == "CVE-2026-1")
    assert finding.path == "acme-lib-1.0"
    assert finding.message == "A hole; mended in 2.0 (also GHSA-1, PYSEC-1)"


def test_a_version_that_nobody_can_read_is_affected(distribution):
    assert match([distribution("acme-lib", "last-week")], [advisory(events=MENDED)])
    assert not match([distribution("other", "last-week")], [advisory(events=MENDED)])
