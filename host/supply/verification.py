"""Does the trust store believe this release? Pure: bytes, a snapshot and an instant in, a verdict out.

The order is that of the checks: the sidecar's form, who signed, what they signed, whether they may. The
archive itself is not looked at here and is not opened before this is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from host.supply.dsse import PAYLOAD_TYPE, Envelope, pae, parse_bundle
from host.supply.errors import ReleaseRefusedError
from host.supply.statement import RELEASE, Statement, parse, predicate_type
from host.supply.trust_store import KeyState, Publisher, TrustedKey, TrustSnapshot


class Purpose(Enum):
    """What the release is verified for: a retired or expired key still holds for what is installed."""

    INSTALL = "install"
    START = "start"


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release whose signature holds and whose publisher may sign it."""

    statement: Statement
    publisher: Publisher
    key_id: str
    warnings: tuple[str, ...] = ()


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
        ReleaseRefusedError: the first rule that is broken.
    """
    envelopes = parse_bundle(attestations)
    if not envelopes:
        raise ReleaseRefusedError("unsigned", "the release has no attestations: sign it with 'busbar plugin sign'")
    refusals: list[ReleaseRefusedError] = []
    for envelope in envelopes:
        if envelope.payload_type != PAYLOAD_TYPE:
            refusals.append(ReleaseRefusedError("wrong_type", f"payloadType is not {PAYLOAD_TYPE}"))
            continue
        signer = _signer(envelope, trust)
        if isinstance(signer, ReleaseRefusedError):
            refusals.append(signer)
            continue
        if predicate_type(envelope.payload) != RELEASE:
            continue  # another kind of statement, by someone who is trusted: none of this decision
        publisher, key = signer
        try:
            return _judge(parse(envelope.payload), publisher, key, sha256, filename, now, purpose)
        except ReleaseRefusedError as refused:
            refusals.append(refused)  # another line may hold: a revoked key beside the one that replaced it
    if refusals:
        raise refusals[0]
    raise ReleaseRefusedError("wrong_type", "the attestations hold no release statement")


def _signer(envelope: Envelope, trust: TrustSnapshot) -> tuple[Publisher, TrustedKey] | ReleaseRefusedError:
    """The publisher and key behind a good signature; else what is wrong with all of them."""
    if not envelope.signatures:
        return ReleaseRefusedError("unsigned", "the envelope has no signature")
    message = pae(envelope.payload_type, envelope.payload)
    claimed = False
    for publisher in trust.publishers:
        for key in publisher.keys:
            for signature in envelope.signatures:
                if key.public.verifies(signature.signature, message):
                    return publisher, key
                claimed = claimed or signature.key_id == key.public.id
    if claimed:
        return ReleaseRefusedError(
            "invalid", "a signature names a trusted key, and is not that key's over this statement"
        )
    return ReleaseRefusedError(
        "unknown_publisher",
        "no trusted key signed this release: add its publisher with 'busbar publisher add'",
    )


def _judge(
    statement: Statement,
    publisher: Publisher,
    key: TrustedKey,
    sha256: str,
    filename: str,
    now: datetime,
    purpose: Purpose,
) -> VerifiedRelease:
    _check_subject(statement, sha256, filename)
    if statement.publisher != publisher.id:
        raise ReleaseRefusedError(
            "invalid", f"the statement names {statement.publisher}, but the key belongs to {publisher.id}"
        )
    if not publisher.may_sign(statement.plugin):
        raise ReleaseRefusedError(
            "namespace_violation",
            f"{publisher.id} may sign {', '.join(publisher.plugins)}, not {statement.plugin}",
        )
    if key.state is KeyState.REVOKED:
        why = f": {key.reason}" if key.reason else ""
        raise ReleaseRefusedError("revoked", f"the key {key.public.id[:16]}… of {publisher.id} is revoked{why}")
    warnings: list[str] = []
    stamp = now.timestamp()
    if key.state is KeyState.RETIRED:
        if purpose is Purpose.INSTALL:
            raise ReleaseRefusedError(
                "key_retired", f"the key of {publisher.id} is retired: have it signed with a new one"
            )
        warnings.append("the key that signed it is retired")
    if key.not_before is not None and stamp < key.not_before:
        raise ReleaseRefusedError("key_not_yet_valid", f"the key of {publisher.id} is not valid yet")
    if key.not_after is not None and stamp > key.not_after:
        if purpose is Purpose.INSTALL:
            raise ReleaseRefusedError(
                "key_expired", f"the key of {publisher.id} has expired: have it signed with a new one"
            )
        warnings.append("the key that signed it has expired since it was installed")
    if statement.valid_until is not None and now > statement.valid_until:
        if purpose is Purpose.INSTALL:
            raise ReleaseRefusedError("expired", f"the release was valid until {statement.valid_until.isoformat()}")
        warnings.append("the release's own validity has ended")
    return VerifiedRelease(statement, publisher, key.public.id, tuple(warnings))


def _check_subject(statement: Statement, sha256: str, filename: str) -> None:
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise ReleaseRefusedError("malformed", f"'{filename[:200]!r}' is no wheel's file name: {error}") from None
    if statement.filename != filename:
        raise ReleaseRefusedError(
            "subject_mismatch", f"the attestations are of {statement.filename}, not of {filename}"
        )
    if statement.sha256 != sha256:
        raise ReleaseRefusedError(
            "digest_mismatch", "the wheel's bytes are not those that were signed: fetch the release again"
        )
    if canonicalize_name(statement.plugin) != name or statement.version != str(version):
        raise ReleaseRefusedError(
            "subject_mismatch",
            f"the statement is about {statement.plugin} {statement.version}, the file about {name} {version}",
        )
