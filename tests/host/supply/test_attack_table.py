"""Every attack that the host is held against, in one table, with where each is tried.

A place is a file whose rows or tests carry the attack's number ("S3 byte appended", `test_l7_…`), or one test by its
name. An attack that nobody tries fails here, and so does a number that stands in no table.
"""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parents[1]

SIGNATURE, WHEEL, TRUST = "test_attacks_signature.py", "test_attacks_wheel.py", "test_attacks_trust.py"
POLICY, STORE, INDEX = "test_attacks_policy.py", "test_attacks_store.py", "test_attacks_index.py"
CRASH, INSTALL, DISK = "test_attacks_crash.py", "test_attacks_install.py", "test_attacks_disk.py"
DEPENDENCY = (
    "dependencies/test_dependency_install.py::test_a_dependency_that_was_touched_on_disk_is_refused_at_the_next_start"
)
E2E = "../../e2e/test_trust_at_work.py"

ATTACKS = {
    # Signatures
    "S1": ("no attestations, empty ones, or lines that nobody knows", SIGNATURE),
    "S2": ("attestations of another wheel, version or file name", SIGNATURE),
    "S3": ("one byte of the wheel changed, more bytes, a prefix", SIGNATURE),
    "S4": ("an unknown key; a trusted key's id on a foreign signature", SIGNATURE),
    "S5": ("a good signature for a name outside the namespace, however it is written", SIGNATURE),
    "S6": ("one signer who counts twice", POLICY),
    "S7": ("a signed statement of another kind, shown as a release", SIGNATURE),
    "S8": ("payloads that two parsers read in two ways, or that break one", SIGNATURE),
    "S9": ("base64 that is not canonical", SIGNATURE),
    "S10": ("a second payload in the envelope", SIGNATURE),
    "S11": (
        "weak keys, malleable signatures",
        SIGNATURE,
        "trust/test_vectors.py::test_a_weak_public_key_is_not_enrolled",
    ),
    "S12": ("another algorithm than the store's", SIGNATURE),
    "S13": ("attestations that take all time or memory", SIGNATURE),
    "S14": ("keyless identities that are not what they seem", SIGNATURE),
    "S15": ("a statement removed that the policy demands", POLICY),
    # Keys
    "K1": ("a key revoked before the install", TRUST),
    "K2": (
        "a key revoked while the plugin runs",
        TRUST,
        STORE,
        f"{E2E}::test_revoking_a_key_stops_what_it_signed_and_an_administrator_may_keep_a_release",
    ),
    "K3": ("a key that has expired, or is not valid yet", TRUST),
    "K4": ("a signature that dates itself before the theft", TRUST, POLICY),
    "K6": (
        "the trust store edited, removed, or replaced by an older copy",
        STORE,
        f"{E2E}::test_a_database_that_was_changed_while_the_host_was_down_runs_nothing_until_it_is_confirmed",
    ),
    "K7": ("one of several co-signers stolen", POLICY),
    "K8": ("the last key revoked, the namespace granted to someone else", TRUST, POLICY),
    # Replay and rollback
    "R1": ("an older version", TRUST),
    "R2": ("other bytes under the same version", TRUST),
    "R3": ("a lower sequence; a sequence that is run up to its end", TRUST),
    "R4": ("the memory of what was installed removed, or restored from a backup", STORE),
    "R5": ("an index frozen at, or gone back to, an old state; a statement that has ended", INDEX),
    "R6": ("new metadata with an old wheel, and the other way round", INDEX),
    "R7": ("dependencies that are older, others, from elsewhere, or not signed", INDEX),
    "R8": ("METADATA that is not the wheel's", INDEX),
    "R9": (
        "downloads without end, slow ones, redirects elsewhere",
        INDEX,
        "index/test_hostile_index.py::test_what_does_not_end_is_ended_here",
        "index/test_hostile_index.py::test_what_is_packed_is_counted_as_it_comes_out",
        "index/test_hostile_index.py::test_a_redirect_to_another_host_is_not_followed",
        "dependencies/test_dependency_fetch.py::test_a_server_that_drips_does_not_keep_an_install_for_ever",
    ),
    "R10": (
        "an index that shows no signatures any more",
        INDEX,
        "index/test_index_client.py::test_an_index_that_once_offered_signatures_must_offer_them_again",
    ),
    # Load time
    "L1": ("installed files changed, removed, added; permissions widened", DISK, DEPENDENCY),
    "L2": ("bytecode and extension modules that win over the source", DISK, DEPENDENCY),
    "L3": ("a file and its RECORD edited together; other attestations", DISK, DEPENDENCY),
    "L4": ("links, pipes and devices in the place of files and folders", DISK, DEPENDENCY),
    "L5": ("a change between the check and the import", DISK),
    "L6": ("start-up hooks", DISK, f"{WHEEL}::test_a_malicious_wheel_is_refused_and_leaves_no_trace"),
    "L7": (
        "files shared with a cache",
        DISK,
        "dependencies/test_dependency_fetch.py::test_what_is_taken_from_a_folder_is_a_copy",
    ),
    "L8": ("an extension module swapped", DISK),
    "L9": ("a second copy of the plugin, or another plugin in its place", DISK, STORE),
    # Install, and what the code says of itself
    "I1": ("killed at any step, cancelled, no room on the disk, two at once", CRASH),
    "I2": ("code that hides from the scan", CRASH),
    "M1": ("code that does more than its manifest says", INSTALL),
    "M2": ("code that attacks while it is looked at", INSTALL),
    "M3": ("names, titles and errors that drive a terminal or a log", INSTALL),
    "M4": ("the next release comes from another publisher", TRUST),
    "M5": (
        "an upgrade that asks for more permissions",
        STORE,
        "../../e2e/test_upgrade.py::test_a_release_that_asks_for_more_waits_while_the_old_one_runs_on",
    ),
}
ABSENT = {
    "K5": "a root that rotates itself: there is none. Administrators say whom to believe; the store is sealed (K6)",
}
"""What has no test because the host has nothing that could be attacked so."""

WHEELS = (
    "ok",
    "record jws",
    "record jws listed in RECORD",
    "sig file in distinfo recorded",
    "zipslip dotdot",
    "zipslip nested",
    "abs path",
    "backslash path",
    "symlink entry",
    "symlink dir then file",
    "dup name same cd",
    "casefold collision",
    "unicode nfc nfd",
    "two distinfo",
    "distinfo name mismatch",
    "ctrl char name",
    "file and dir same path",
    "dot segment",
    "file not in RECORD",
    "RECORD lists missing",
    "wrong hash",
    "md5 hash",
    "no hash rows",
    "quoted comma path",
    "dup RECORD row conflict",
    "RECORD with own hash",
    "RECORD traversal row",
    "no RECORD",
    "pth file",
    "data scripts",
    "data data abs",
    "data scripts traversal",
    "data unknown scheme",
    "shadow stdlib",
    "ep traversal script",
    "ep python name",
    "top level other pkg",
    "requires python mismatch",
    "platform tag mismatch",
    "WHEEL tag differs from filename",
    "wheel version 2",
    "version differs filename",
    "METADATA name differs",
    "encrypted flag",
    "cd name differs local",
    "prefix data",
    "trailing data",
    "eocd comment plain",
    "zip in comment",
    "cd crc bad",
    "local only entry",
    "non utf8 name",
    "nul in name",
    "bomb 200MB",
    "overlapping entries",
    "usize lie",
    "lzma compression",
    "data descriptors valid",
    "exec bit setuid",
    "long name",
    "windows reserved",
    "pyc only mismatch",
    "tar named whl",
    "huge RECORD",
    "entry_points.txt not UTF-8",
)
"""Malicious and doubtful wheels; each is a row of the table in `test_attacks_wheel`."""


@lru_cache
def parsed(file):
    return ast.parse((HERE / file).read_text(encoding="utf-8"))


def named_in(file):
    return {
        node.name
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def texts_in(file):
    return {
        node.value for node in ast.walk(parsed(file)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def numbers_in(file):
    """The numbers that rows and tests of a file carry."""
    found = {match[1] for text in texts_in(file) if (match := re.match(r"([SKRLIM]\d+) ", text))}
    named = {match[1].upper() for name in named_in(file) if (match := re.match(r"test_([skrlim]\d+)_", name))}
    return found | named


@pytest.mark.parametrize(("number", "attack"), ATTACKS.items(), ids=ATTACKS)
def test_every_attack_is_tried_where_the_table_says(number, attack):
    says, *places = attack
    assert says
    assert places
    for place in places:
        file, _, test = place.partition("::")
        assert test in named_in(file) if test else number in numbers_in(file), place


def test_no_number_is_left_out_of_the_table_or_of_the_tests():
    counted = {"S": 15, "K": 8, "R": 10, "L": 9, "I": 2, "M": 5}
    every = {f"{letter}{number}" for letter, last in counted.items() for number in range(1, last + 1)}
    assert ATTACKS.keys() | ABSENT.keys() == every
    assert not ATTACKS.keys() & ABSENT.keys()
    tried = set().union(*(numbers_in(path.name) for path in HERE.glob("test_attacks_*.py")))
    assert tried == ATTACKS.keys()


def test_every_malicious_wheel_is_a_row():
    assert len(WHEELS) == len(set(WHEELS)) == 65
    assert set(WHEELS) <= texts_in(WHEEL)


def test_every_row_of_every_table_is_run():
    """Nothing waits to be mended: a row that is expected to fail is an attack that succeeds."""
    for path in HERE.glob("test_*.py"):
        names = {node.attr for node in ast.walk(parsed(path.name)) if isinstance(node, ast.Attribute)}
        assert "xfail" not in names, path.name
