"""`busbar plugin verify` from inside: each broken release names its rule, all before hold, none after was reached."""

import ast
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from supply_wheels import INFO, NAME, NOW, PROVIDED, Acme, contents, good, pack, record

from host.cli.release_rules import RULES, Candidate, Result, examine
from host.supply.trust.publishers import KeyState, TrustedKey, TrustPolicy, TrustSnapshot
from host.supply.trust.statement import STATEMENT
from plugin_sdk.errors import ManifestError

SUPPLY = Path(__file__).parents[3] / "host" / "supply"
JUDGES = ("trust/verification", "trust/dsse", "trust/statement", "dependencies/lock", "wheel/*")
"""Files of `host.supply` whose refusals can come out of `verify_release` and `read_wheel`."""
REFUSALS = {"WheelRefusedError": "wheel_", "ReleaseRefusedError": "release_", "ReleaseTooLargeError": "release_"}
GOOD = good()
INLINE = b'[plugin]\nid = "acme-demo"\ntitle = "Demo"\n\n[runtime]\nisolation = "inline"\n'
REVIEW = b'{"_type": "%s", "subject": [], "predicateType": "urn:review", "predicate": {}}' % STATEMENT.encode()

acme = Acme()
stranger = Acme("stranger")
ended = Acme(not_after=NOW.timestamp() - 1)
revoked = Acme(state=KeyState.REVOKED, reason="stolen")


def wheel(**changes):
    """The good wheel with some files changed, and a signature over what came of it."""
    files = contents(files={path.replace("INFO", INFO): content for path, content in changes.items()})
    packed = pack({**files, f"{INFO}/RECORD": record(files)})
    return packed, acme.sign(packed)


def listed(line):
    """A wheel whose RECORD lists a file that is not there."""
    files = contents()
    packed = pack({**files, f"{INFO}/RECORD": record(files, (line,))})
    return packed, acme.sign(packed)


def changed(**statement):
    return GOOD, acme.sign(GOOD, **statement)


def demanding(**policy):
    return dataclasses.replace(acme.trust, policies=(TrustPolicy("acme", **policy),))


TABLE = [
    # what, (wheel, attestations), trust, the broken rule, the code
    ("no attestations", (GOOD, b""), acme.trust, "attestations", "release_unsigned"),
    ("no JSON", (GOOD, b"{\n"), acme.trust, "attestations", "release_malformed"),
    ("too many lines", (GOOD, acme.sign(GOOD) * 65), acme.trust, "attestations", "release_size_limit"),
    (
        "another payloadType",
        (GOOD, acme.line(acme.statement(GOOD).dump(), payload_type="text/plain")),
        acme.trust,
        "attestations",
        "release_wrong_type",
    ),
    ("nobody is trusted", (GOOD, acme.sign(GOOD)), TrustSnapshot(()), "signature", "release_unknown_publisher"),
    ("a stranger's key", (GOOD, stranger.sign(GOOD)), acme.trust, "signature", "release_unknown_publisher"),
    (
        "a stranger under a trusted key's id",
        (GOOD, stranger.line(stranger.statement(GOOD).dump(), key_id=acme.private.public.id)),
        acme.trust,
        "signature",
        "release_invalid",
    ),
    ("a review only", (GOOD, acme.line(REVIEW)), acme.trust, "statement", "release_wrong_type"),
    ("no JSON in the payload", (GOOD, acme.line(b"[")), acme.trust, "statement", "release_malformed"),
    ("of another file", changed(filename="acme_demo-2-py3-none-any.whl"), acme.trust, "subject", None),
    ("of another version", changed(version="2.0.0"), acme.trust, "subject", "release_subject_mismatch"),
    ("another byte", (GOOD + b"\0", acme.sign(GOOD)), acme.trust, "digest", "release_digest_mismatch"),
    ("in another name", changed(publisher="stranger"), acme.trust, "publisher", "release_invalid"),
    (
        "outside the namespace",
        (GOOD, acme.sign(GOOD)),
        TrustSnapshot((dataclasses.replace(acme.publisher, plugins=("other",)),)),
        "namespace",
        "release_namespace_violation",
    ),
    ("a key that has ended", (GOOD, ended.sign(GOOD)), ended.trust, "validity", "release_key_expired"),
    ("a revoked key", (GOOD, revoked.sign(GOOD)), revoked.trust, "validity", "release_revoked"),
    ("past its end", changed(valid_until=NOW - timedelta(1)), acme.trust, "validity", "release_expired"),
    ("one of two", (GOOD, acme.sign(GOOD)), demanding(threshold=2), "policy", "release_threshold_unmet"),
    ("no review", (GOOD, acme.sign(GOOD)), demanding(predicates=("urn:review",)), "policy", None),
    ("no ZIP", (b"#!/bin/sh", acme.sign(b"#!/bin/sh")), acme.trust, "archive", "wheel_not_a_wheel"),
    ("bytes behind", (GOOD + b"\0", acme.sign(GOOD + b"\0")), acme.trust, "archive", "wheel_zip_structure"),
    ("a path upwards", wheel(**{"../x.py": b""}), acme.trust, "names", "wheel_unsafe_path"),
    ("one name in two cases", wheel(**{"ACME_DEMO/__init__.py": b""}), acme.trust, "names", "wheel_path_collision"),
    ("a start-up hook", wheel(**{"x.pth": b""}), acme.trust, "contents", "wheel_startup_hook"),
    ("a file that is not there", listed("y.py,sha256=x,1"), acme.trust, "RECORD", "wheel_record_mismatch"),
    (
        "another version inside",
        wheel(**{"INFO/METADATA": b"Metadata-Version: 2.1\nName: acme-demo\nVersion: 2.0.0\n"}),
        acme.trust,
        "metadata",
        "wheel_name_version_mismatch",
    ),
    ("Python's own json", wheel(**{"json.py": b""}), acme.trust, "modules", "wheel_shadows_stdlib"),
    ("no entry point", wheel(**{"INFO/entry_points.txt": None}), acme.trust, "entry point", "plugin_no_entry_point"),
    ("no plugin.toml", wheel(**{"acme_demo/plugin.toml": None}), acme.trust, "manifest", "manifest_missing"),
    ("a bad plugin.toml", wheel(**{"acme_demo/plugin.toml": b"x = 1"}), acme.trust, "manifest", ManifestError.code),
    ("inline", wheel(**{"acme_demo/plugin.toml": INLINE}), acme.trust, "isolation", "plugin_isolation_refused"),
    ("another RECORD", changed(record_sha256="0" * 64), acme.trust, "recordSha256", "release_subject_mismatch"),
    ("a lock that is not there", changed(lock_sha256="0" * 64), acme.trust, "lock", "release_lock_mismatch"),
]


def look(release, trust):
    content, attestations = release
    return examine(Candidate(NAME, content, attestations), trust, NOW, PROVIDED)


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_broken_release_names_its_rule(row):
    _, release, trust, rule, code = row
    found = look(release, trust)
    at = list(RULES).index(rule)
    assert [one.rule for one in found.steps] == list(RULES)
    assert [one.result for one in found.steps] == [
        *[Result.HOLDS] * at,
        Result.BROKEN,
        *[Result.NOT_REACHED] * (len(RULES) - at - 1),
    ]
    assert found.steps[at].detail == found.refusal.message
    assert code in {None, found.refusal.word}


def test_every_rule_is_broken_by_a_row_of_the_table():
    assert {row[3] for row in TABLE} == set(RULES) - {"dependencies"}


def test_of_a_good_release_every_rule_holds_and_says_what_was_found():
    found = look((GOOD, acme.sign(GOOD)), acme.trust)
    assert found.refusal is None
    assert all(one.result is Result.HOLDS and one.detail for one in found.steps)


def test_a_line_that_nobody_believes_takes_nothing_from_one_that_holds():
    assert look((GOOD, stranger.sign(GOOD) + acme.sign(GOOD)), acme.trust).refusal is None


def test_nothing_of_the_archive_is_read_before_the_signature_holds(monkeypatch):
    monkeypatch.setattr("host.cli.release_rules.read_wheel", lambda *_: pytest.fail("the archive was read"))
    assert look((b"#!/bin/sh", stranger.sign(b"#!/bin/sh")), acme.trust).refusal.word == "release_unknown_publisher"


def test_a_key_in_the_second_place_is_named_as_the_one_that_signed():
    other = Acme()
    publisher = dataclasses.replace(acme.publisher, keys=(TrustedKey(other.private.public), *acme.publisher.keys))
    found = look((GOOD, acme.sign(GOOD)), TrustSnapshot((publisher,)))
    assert acme.private.public.id[:16] in found.steps[list(RULES).index("signature")].detail


def _codes():
    """Every code that the judges' files refuse with."""
    for pattern in JUDGES:
        for path in SUPPLY.glob(f"{pattern}.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(reason)), *_]):
                        prefix = {"WheelRefusedError": "wheel_"}.get(
                            name, "release_" if name.startswith("Release") else ""
                        )
                        if prefix:
                            yield prefix + reason


def test_every_refusal_of_the_judges_is_about_a_rule():
    """A new code needs its place in `RULES`, or `verify` says of the wrong rule that it is broken."""
    known = {code for codes in RULES.values() for code in codes.split()}
    found = set(_codes())
    assert len(found) > 40
    assert found - known == set()
