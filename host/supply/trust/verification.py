"""Does the trust store believe this release? Pure: bytes, a snapshot and an instant in, a verdict out.

The order is that of the checks: the sidecar's form, the policy that owns the plugin's name, who signed, what they
signed, whether they may, and whether they are enough. The archive itself is not opened before this is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from packaging.utils import InvalidWheelFilename, canonicalize_name

from host.supply.errors import ReleaseRefusedError, ReleaseTooLargeError
from host.supply.trust.dsse import PAYLOAD_TYPE, Envelope, Signature, pae, parse_bundle
from host.supply.trust.publishers import KeyState, Publisher, TrustedKey, TrustPolicy, TrustSnapshot
from host.supply.trust.statement import RELEASE, Statement, parse, predicate_type, subject_digest
from host.supply.wheel.filename import parse_filename

MAX_VERIFICATIONS: Final = 8192
"""Signatures that are tried for one release, some 0.5 s: a sidecar cannot keep the host busy for longer."""
_TELLING: Final = (
    "revoked",
    "key_retired",
    "key_expired",
    "key_not_yet_valid",
    "expired",
    "namespace_violation",
    "digest_mismatch",
    "subject_mismatch",
    "malformed",
    "invalid",
    "unknown_publisher",
    "wrong_type",
    "unsigned",
)
"""Refusals of lines, the most telling first, by how much of a line held before it was refused.

Anybody can put a line before the others, so the first refusal says whatever its writer wants said: a stranger's would
hide that the key is revoked. What comes first here needs the signature of a key that is or was believed.
"""
_RANK: Final = {reason: place for place, reason in enumerate(_TELLING)}


class Purpose(Enum):
    """What the release is verified for: a retired or expired key still holds for what is installed."""

    INSTALL = "install"
    START = "start"


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release that is sufficiently signed. `publisher` is whose it is, `signers` has the ids of all who count."""

    statement: Statement
    publisher: Publisher
    key_id: str
    signers: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is verified, and for what."""

    sha256: str
    filename: str
    plugin: str
    version: str
    policy: TrustPolicy
    kept: bool
    now: datetime
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class _Endorsement:
    """One publisher's good signature under a statement that is about this release."""

    publisher: Publisher
    key: TrustedKey
    statement: Statement
    warnings: tuple[str, ...]

    @property
    def own(self) -> bool:
        """Whether the statement speaks in the signer's own name; else it is a second signature under another's."""
        return self.statement.publisher == self.publisher.id


def verify_release(
    *,
    sha256: str,
    filename: str,
    attestations: bytes,
    trust: TrustSnapshot,
    now: datetime,
    purpose: Purpose,
) -> VerifiedRelease:
    """Check the attestations of a wheel whose bytes have the hash `sha256`.

    Raises:
        ReleaseRefusedError: the rule that is broken; where lines break several, the most telling one.
    """
    envelopes = parse_bundle(attestations)
    if not envelopes:
        raise ReleaseRefusedError("unsigned", "the release has no attestations: sign it with 'busbar plugin sign'")
    subject = _subject(sha256, filename, trust, now, purpose)
    signers = _Signers(trust, subject.plugin)
    refusals: list[ReleaseRefusedError] = []
    endorsements: list[_Endorsement] = []
    said: set[str] = set()
    for envelope in envelopes:
        # A line that does not hold speaks for nobody and against nobody: another one may hold, such as that of the
        # key that replaced a revoked one.
        try:
            found = signers.of(envelope)
            kind = predicate_type(envelope.payload)
            if kind == RELEASE:
                endorsements += _judge_all(parse(envelope.payload), found, subject, refusals)
            elif subject_digest(envelope.payload) == sha256:
                said |= _other_statement(kind, found, subject, refusals)
        except ReleaseTooLargeError:
            raise
        except ReleaseRefusedError as refused:
            refusals.append(refused)
    if not any(one.own for one in endorsements):
        raise _most_telling(refusals)
    return _sufficient(endorsements, said, subject, refusals)


def _most_telling(refusals: Sequence[ReleaseRefusedError]) -> ReleaseRefusedError:
    """The refusal that says most of why a release is not believed; what else was refused is in its `errors`."""
    if not refusals:
        return ReleaseRefusedError("wrong_type", "the attestations hold no release statement")
    ranked = sorted(refusals, key=lambda refused: _RANK.get(refused.reason, len(_RANK)))
    messages = tuple(dict.fromkeys(refused.message for refused in ranked))
    return ReleaseRefusedError(ranked[0].reason, ranked[0].message, messages if len(messages) > 1 else ())


def plugin_of(filename: str) -> tuple[str, str]:
    """The plugin's id and the version that a wheel's file name speaks of.

    Raises:
        ReleaseRefusedError: `release_malformed`.
    """
    try:
        name, version, _, _ = parse_filename(filename)
    except InvalidWheelFilename as error:
        raise ReleaseRefusedError("malformed", f"{ascii(filename)[:200]} is no wheel's file name: {error}") from None
    return name, str(version)


def _subject(sha256: str, filename: str, trust: TrustSnapshot, now: datetime, purpose: Purpose) -> _Subject:
    plugin, version = plugin_of(filename)
    return _Subject(
        sha256=sha256,
        filename=filename,
        plugin=plugin,
        version=version,
        policy=trust.policy(plugin),
        kept=purpose is Purpose.START and sha256 in trust.kept,
        now=now,
        purpose=purpose,
    )


class _Signers:
    """Finds the keys behind signatures. A key id narrows the search and decides nothing."""

    def __init__(self, trust: TrustSnapshot, plugin: str) -> None:
        self._keys = sorted(trust.every_key(), key=lambda one: not one[0].may_sign(plugin))
        self._by_id: dict[str, list[tuple[Publisher, TrustedKey]]] = {}
        for one in self._keys:
            self._by_id.setdefault(one[1].public.id, []).append(one)
        self._left = MAX_VERIFICATIONS

    def of(self, envelope: Envelope) -> list[tuple[Publisher, TrustedKey]]:
        """Every trusted key with a good signature over the envelope.

        Raises:
            ReleaseRefusedError: there is none, with what is wrong with all of them.
            ReleaseTooLargeError: more had to be tried than is reasonable.
        """
        if envelope.payload_type != PAYLOAD_TYPE:
            raise ReleaseRefusedError("wrong_type", f"payloadType is not {PAYLOAD_TYPE}")
        if not envelope.signatures:
            raise ReleaseRefusedError("unsigned", "the envelope has no signature")
        message = pae(envelope.payload_type, envelope.payload)
        found = [signer for one in envelope.signatures for signer in self._who(one, message)]
        if found:
            return found
        if any(one.key_id in self._by_id for one in envelope.signatures):
            raise ReleaseRefusedError(
                "invalid", "a signature names a trusted key, and is not that key's over this statement"
            )
        raise ReleaseRefusedError(
            "unknown_publisher",
            "no trusted key signed this release: add its publisher with 'busbar publisher add'",
        )

    def _who(self, signature: Signature, message: bytes) -> Sequence[tuple[Publisher, TrustedKey]]:
        hinted = self._by_id.get(signature.key_id, [])
        for publisher, key in (*hinted, *self._keys):
            self._left -= 1
            if self._left < 0:
                raise ReleaseTooLargeError(
                    "size_limit", f"the attestations take more than {MAX_VERIFICATIONS} checks of signatures"
                )
            if key.public.verifies(signature.signature, message):
                return ((publisher, key),)
        return ()


def _judge_all(
    statement: Statement,
    signers: Sequence[tuple[Publisher, TrustedKey]],
    subject: _Subject,
    refusals: list[ReleaseRefusedError],
) -> list[_Endorsement]:
    """The signers of one release statement who may sign it; why the others may not goes to `refusals`."""
    _check_subject(statement, subject)
    if all(publisher.id != statement.publisher for publisher, _ in signers):
        raise ReleaseRefusedError(
            "invalid", f"the statement names {statement.publisher}, but the key belongs to {signers[0][0].id}"
        )
    found = []
    for publisher, key in signers:
        try:
            warnings = (*_may_sign(publisher, key, subject), *_in_time(statement, subject))
        except ReleaseRefusedError as refused:
            refusals.append(refused)
        else:
            found.append(_Endorsement(publisher, key, statement, warnings))
    return found


def _other_statement(
    kind: str,
    signers: Sequence[tuple[Publisher, TrustedKey]],
    subject: _Subject,
    refusals: list[ReleaseRefusedError],
) -> set[str]:
    """The kind of a statement about this wheel that is none of a release, where someone who counts signed it."""
    for publisher, key in signers:
        try:
            _may_sign(publisher, key, subject)
        except ReleaseRefusedError as refused:
            refusals.append(refused)
        else:
            return {kind}
    return set()


def _check_subject(statement: Statement, subject: _Subject) -> None:
    if statement.filename != subject.filename:
        raise ReleaseRefusedError(
            "subject_mismatch", f"the attestations are of {statement.filename}, not of {subject.filename}"
        )
    if statement.sha256 != subject.sha256:
        raise ReleaseRefusedError(
            "digest_mismatch", "the wheel's bytes are not those that were signed: fetch the release again"
        )
    if canonicalize_name(statement.plugin) != subject.plugin or statement.version != subject.version:
        raise ReleaseRefusedError(
            "subject_mismatch",
            f"the statement is about {statement.plugin} {statement.version}, the file about {subject.plugin} "
            f"{subject.version}",
        )


def _may_sign(publisher: Publisher, key: TrustedKey, subject: _Subject) -> tuple[str, ...]:
    """Warnings, where the publisher may sign the plugin and the key is believed."""
    if not publisher.may_sign(subject.plugin):
        raise ReleaseRefusedError(
            "namespace_violation",
            f"{publisher.id} may sign {', '.join(publisher.plugins)}, not {subject.plugin}",
        )
    counted = subject.policy.publishers
    if counted and publisher.id not in counted:
        raise ReleaseRefusedError(
            "namespace_violation",
            f"the policy of '{subject.policy.namespace}' counts {', '.join(counted)}, not {publisher.id}",
        )
    stamp, installing = subject.now.timestamp(), subject.purpose is Purpose.INSTALL
    warnings: list[str] = []
    if key.state is KeyState.REVOKED:
        why = f": {key.reason}" if key.reason else ""
        sentence = f"the key {key.public.id[:16]}… of {publisher.id} is revoked{why}"
        if not subject.kept:
            raise ReleaseRefusedError("revoked", sentence)
        warnings.append(f"{sentence}; an administrator keeps this release")
    if key.state is KeyState.RETIRED:
        if installing:
            raise ReleaseRefusedError(
                "key_retired", f"the key of {publisher.id} is retired: have it signed with a new one"
            )
        warnings.append("the key that signed it is retired")
    if key.not_before is not None and stamp < key.not_before:
        raise ReleaseRefusedError("key_not_yet_valid", f"the key of {publisher.id} is not valid yet")
    if key.not_after is not None and stamp > key.not_after:
        if installing:
            raise ReleaseRefusedError(
                "key_expired", f"the key of {publisher.id} has expired: have it signed with a new one"
            )
        warnings.append("the key that signed it has expired since it was installed")
    return tuple(warnings)


def _in_time(statement: Statement, subject: _Subject) -> tuple[str, ...]:
    if statement.valid_until is None or subject.now <= statement.valid_until:
        return ()
    if subject.purpose is Purpose.INSTALL:
        raise ReleaseRefusedError("expired", f"the release was valid until {statement.valid_until.isoformat()}")
    return ("the release's own validity has ended",)


def _sufficient(
    endorsements: Sequence[_Endorsement],
    said: set[str],
    subject: _Subject,
    refusals: Sequence[ReleaseRefusedError],
) -> VerifiedRelease:
    """Count who signed, by distinct publishers and distinct raw keys: one key in two names counts once."""
    policy = subject.policy
    own = min((one for one in endorsements if one.own), key=lambda one: _rank(one.publisher, subject))
    agreeing = [
        one
        for one in endorsements
        if (one.statement.record_sha256, one.statement.lock_sha256)
        == (own.statement.record_sha256, own.statement.lock_sha256)
    ]
    signers = sorted({one.publisher.id for one in agreeing}, key=lambda name: (name != own.publisher.id, name))
    count = min(len(signers), len({one.key.public.raw for one in agreeing}))
    if count < policy.threshold:
        raise ReleaseRefusedError(
            "threshold_unmet",
            f"{subject.plugin} must be signed by {policy.threshold} publishers"
            + (f" of {', '.join(policy.publishers)}" if policy.publishers else "")
            + f", and is signed by {', '.join(signers)} alone: have it signed with 'busbar plugin sign' by another",
            errors=[refused.message for refused in refusals],
        )
    missing = sorted(set(policy.predicates) - said)
    if missing:
        raise ReleaseRefusedError(
            "policy_missing_attestation",
            f"the policy of '{policy.namespace}' demands a signed statement {missing[0]} beside the release",
        )
    warnings = dict.fromkeys(warning for one in agreeing for warning in one.warnings)
    return VerifiedRelease(own.statement, own.publisher, own.key.public.id, tuple(signers), tuple(warnings))


def _rank(publisher: Publisher, subject: _Subject) -> tuple[int, int, str]:
    """Whose release it is where several signed in their own names; the order of the lines must not matter."""
    counted = subject.policy.publishers
    place = counted.index(publisher.id) if counted else 0
    return place, -publisher.nearness(subject.plugin), publisher.id
