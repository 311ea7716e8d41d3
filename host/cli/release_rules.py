"""The rules that a host holds a release against, one by one: which hold, which is broken, which were not reached.

The judges are those of a host, `verify_release` and `read_wheel`, and they stop at the first rule that is broken. The
table says which rule each of their refusals is about; the rules before it hold. Nothing of the archive is read before
the signature holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from host.errors import BusbarError
from host.supply.dependencies.lock import check_lock
from host.supply.errors import PluginRefusedError, ReleaseRefusedError, SupplyError
from host.supply.trust.dsse import PAYLOAD_TYPE, Envelope, pae, parse_bundle
from host.supply.trust.publishers import TrustSnapshot
from host.supply.trust.verification import Purpose, VerifiedRelease, verify_release
from host.supply.wheel.reader import ReadWheel, read_wheel

RULES: Final[dict[str, str]] = {
    "attestations": "release_unsigned release_size_limit",
    "signature": "release_unknown_publisher release_invalid",
    "statement": "release_malformed release_wrong_type",
    "subject": "release_subject_mismatch",
    "digest": "release_digest_mismatch",
    "publisher": "",
    "namespace": "release_namespace_violation",
    "validity": "release_revoked release_key_retired release_key_not_yet_valid release_key_expired release_expired",
    "policy": "release_threshold_unmet release_policy_missing_attestation",
    "archive": (
        "wheel_not_a_wheel wheel_zip_structure wheel_encrypted_entry wheel_compression_method wheel_non_regular_entry "
        "wheel_size_limit"
    ),
    "names": "wheel_bad_name wheel_unsafe_path wheel_duplicate_entry wheel_path_collision",
    "contents": (
        "wheel_dist_info wheel_data_dir wheel_startup_hook wheel_bytecode_in_wheel wheel_deprecated_signature_file"
    ),
    "RECORD": (
        "wheel_record_missing wheel_record_malformed wheel_record_mismatch wheel_record_duplicate_row wheel_weak_hash"
    ),
    "metadata": (
        "wheel_wheel_version wheel_tag_mismatch wheel_metadata_encoding wheel_metadata_invalid "
        "wheel_name_version_mismatch wheel_requires_python wheel_platform_tag"
    ),
    "modules": "wheel_shadows_stdlib wheel_module_collision",
    "entry point": ("wheel_entry_point_name wheel_scripts_not_allowed plugin_no_entry_point plugin_id_mismatch"),
    "manifest": "manifest_missing manifest_invalid",
    "dependencies": (
        "release_lock_malformed release_lock_incompatible release_dependency_no_wheel release_dependency_weak_hash "
        "wheel_dependency_unavailable"
    ),
    "isolation": "plugin_isolation_refused",
    "recordSha256": "",
    "lock": "release_lock_mismatch",
}
"""Each rule with the codes of the refusals that are about it, in the order in which a host looks."""
_RULE_OF: Final = {code: rule for rule, codes in RULES.items() for code in codes.split()}


class Result(Enum):
    """What became of a rule."""

    HOLDS = "holds"
    BROKEN = "broken"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule and what became of it; `detail` is what was found, or what is wrong."""

    rule: str
    result: Result
    detail: str


@dataclass(frozen=True, slots=True)
class Examination:
    """A release, rule by rule; `refusal` is None where all of them hold."""

    steps: tuple[Step, ...]
    refusal: BusbarError | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """The two files of a release, not believed yet."""

    filename: str
    wheel: bytes
    attestations: bytes


def examine(candidate: Candidate, trust: TrustSnapshot, now: datetime, provided: dict[str, str]) -> Examination:
    """Hold a release against every rule, as a host that has this trust store would at install.

    `provided` are the distributions that every worker has, with their versions. Whether the release fits what a host
    has installed already (rollback, another publisher), and what the code does, is not asked here.
    """
    found: dict[str, str] = {}
    rule = "attestations"
    warnings: tuple[str, ...] = ()
    try:
        envelopes = parse_bundle(candidate.attestations)
        found["attestations"] = f"{len(envelopes)} signed lines" if len(envelopes) != 1 else "1 signed line"
        rule = "signature"
        found[rule] = _signature(envelopes, trust)
        sha256 = hashlib.sha256(candidate.wheel).hexdigest()
        verified = verify_release(
            sha256=sha256,
            filename=candidate.filename,
            attestations=candidate.attestations,
            trust=trust,
            now=now,
            purpose=Purpose.INSTALL,
        )
        warnings = verified.warnings
        found |= _of_signature(verified, candidate, trust)
        rule = "archive"
        read = read_wheel(candidate.wheel, candidate.filename, provided)
        found |= _of_archive(read)
        rule = "isolation"
        found[rule] = _isolation(verified, read)
        rule = "recordSha256"
        found[rule] = _record(verified, read)
        rule = "lock"
        found[rule] = _lock(verified, read)
    except SupplyError as refusal:
        broken = _broken(refusal, rule, signed=bool(found.get("signature")))
        return Examination(_steps(found, broken, refusal.message), refusal, warnings)
    return Examination(_steps(found, None, ""), None, warnings)


def _broken(refusal: SupplyError, looked_at: str, *, signed: bool) -> str:
    """The rule that a refusal is about; `looked_at` is that rule, or the first of a judge's."""
    if looked_at not in {"signature", "archive"}:
        return looked_at
    named = _RULE_OF.get(refusal.word, "policy" if looked_at == "signature" else looked_at)
    if looked_at == "archive" or signed == (named != "signature"):
        return named
    # Where the signature holds, it can only be that the key is not the publisher's whom the statement names; and
    # where it was not looked at, that the line around it has another form.
    return "publisher" if signed else "attestations"


def _signature(envelopes: tuple[Envelope, ...], trust: TrustSnapshot) -> str:
    """Who signed: the first good signature of a trusted key, in words; empty where there is none."""
    for envelope in (one for one in envelopes if one.payload_type == PAYLOAD_TYPE):
        message = pae(envelope.payload_type, envelope.payload)
        for publisher, key in ((one, key) for one in trust.publishers for key in one.keys):
            if any(key.public.verifies(one.signature, message) for one in envelope.signatures):
                return f"good, by the key {key.public.id[:16]}… of {publisher.id}"
    return ""


def _steps(found: dict[str, str], broken: str | None, why: str) -> tuple[Step, ...]:
    steps: list[Step] = []
    result = Result.HOLDS
    for rule in RULES:
        if rule == broken:
            steps.append(Step(rule, Result.BROKEN, why))
            result = Result.NOT_REACHED
        else:
            steps.append(Step(rule, result, found.get(rule, "") if result is Result.HOLDS else ""))
    return tuple(steps)


def _of_signature(verified: VerifiedRelease, candidate: Candidate, trust: TrustSnapshot) -> dict[str, str]:
    statement, publisher = verified.statement, verified.publisher
    until = "" if statement.valid_until is None else f", valid until {statement.valid_until.isoformat()}"
    policy = trust.policy(statement.plugin)
    return {
        "signature": f"good, by the key {verified.key_id[:16]}… of {publisher.id}",
        "statement": f"{statement.plugin} {statement.version}, sequence {statement.sequence}",
        "subject": candidate.filename,
        "digest": f"sha256 {statement.sha256}",
        "publisher": f"{publisher.id}, as the statement says",
        "namespace": f"{publisher.id} may sign {', '.join(publisher.plugins)}",
        "validity": f"signed {statement.issued_at.isoformat()}{until}; no key is revoked, retired or expired",
        "policy": f"signed by {', '.join(verified.signers)}; {policy.threshold} needed",
    }


def _of_archive(read: ReadWheel) -> dict[str, str]:
    return {
        "archive": f"{sum(map(len, read.files.values()))} bytes unpacked, to be read in one way",
        "names": f"{len(read.files)} files, each path plain and relative",
        "contents": "no start-up hooks, no bytecode, no scripts",
        "RECORD": "each file is as RECORD says, and none is missing or extra",
        "metadata": f"{read.name} {read.version}, for this Python and machine",
        "modules": "none stands before Python's own or the host's",
        "entry point": read.entry_point,
        "manifest": f"plugin.toml of {read.manifest.plugin.id}",
        "dependencies": "all that it needs is in its lock, or workers have it",
    }


def _isolation(verified: VerifiedRelease, read: ReadWheel) -> str:
    wanted, allowed = read.manifest.runtime.isolation, verified.publisher.max_isolation
    if wanted == "inline" and allowed != "inline":
        raise PluginRefusedError(
            f"the plugin wants to run inside the host, and {verified.publisher.id} is trusted for processes only",
            code="plugin_isolation_refused",
        )
    return wanted


def _record(verified: VerifiedRelease, read: ReadWheel) -> str:
    if verified.statement.record_sha256 != read.record_sha256:
        raise ReleaseRefusedError("subject_mismatch", "the wheel's RECORD is not the one that was signed")
    return f"RECORD is the one that was signed, {read.record_sha256[:16]}…"


def _lock(verified: VerifiedRelease, read: ReadWheel) -> str:
    check_lock(read.lock, verified.statement.lock_sha256)
    if read.lock is None:
        return "there is none, and none was signed"
    return f"the lock of {len(read.lock.wheels)} wheels is the one that was signed, {read.lock.sha256[:16]}…"
