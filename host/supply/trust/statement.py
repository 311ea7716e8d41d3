"""The statement that a publisher signs: an in-toto Statement v1 with the release predicate of this project."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from host.supply import strict_json
from host.supply.errors import ReleaseRefusedError

STATEMENT: Final = "https://in-toto.io/Statement/v1"
RELEASE: Final = "urn:busbar:release:v1"
MAX_SEQUENCE: Final = 2**52
"""Enough for a clock in microseconds until 2112, and far from the last integer, after which nothing could follow."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SHORT: Final = 256


@dataclass(frozen=True, slots=True)
class Statement:
    """What a publisher says of one wheel. `sequence` only grows from release to release of a plugin."""

    filename: str
    sha256: str
    publisher: str
    plugin: str
    version: str
    sequence: int
    issued_at: datetime
    record_sha256: str
    lock_sha256: str | None = None
    valid_until: datetime | None = None

    def dump(self) -> bytes:
        """The payload to be signed."""
        predicate: dict[str, Any] = {
            "publisher": self.publisher,
            "plugin": self.plugin,
            "version": self.version,
            "sequence": self.sequence,
            "issuedAt": _written(self.issued_at),
            "recordSha256": self.record_sha256,
        }
        if self.lock_sha256 is not None:
            predicate["lockSha256"] = self.lock_sha256
        if self.valid_until is not None:
            predicate["validUntil"] = _written(self.valid_until)
        return msgspec.json.encode(
            {
                "_type": STATEMENT,
                "subject": [{"name": self.filename, "digest": {"sha256": self.sha256}}],
                "predicateType": RELEASE,
                "predicate": predicate,
            }
        )


def predicate_type(payload: bytes) -> str:
    """What kind of statement a payload is.

    Raises:
        ReleaseRefusedError: `release_malformed`, or `release_wrong_type` where it is no in-toto Statement v1.
    """
    found = _object(payload)
    if found.get("_type") != STATEMENT:
        raise ReleaseRefusedError("wrong_type", f"the signed statement is no {STATEMENT}")
    kind = found.get("predicateType")
    if not isinstance(kind, str):
        raise ReleaseRefusedError("malformed", "the signed statement has no predicateType")
    return kind


def subject_digest(payload: bytes) -> str | None:
    """The SHA-256 that a statement of any kind is about; None where it has not exactly one such subject."""
    match _object(payload):
        case {"subject": [{"digest": {"sha256": str(digest)}}]}:
            return digest
    return None


def parse(payload: bytes) -> Statement:
    """Read the release statement of a payload whose signature holds.

    Raises:
        ReleaseRefusedError: `release_wrong_type` or `release_malformed`.
    """
    if predicate_type(payload) != RELEASE:
        raise ReleaseRefusedError("wrong_type", f"the signed statement is not about a release ({RELEASE})")
    found = _object(payload)
    try:
        subjects = found["subject"]
        if not isinstance(subjects, list) or len(subjects) != 1:
            raise ValueError("it has not exactly one subject")
        digest = _text(subjects[0]["digest"], "sha256")
        predicate = found["predicate"]
        sequence = predicate["sequence"]
        if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence <= MAX_SEQUENCE:
            raise ValueError(f"sequence is no whole number up to {MAX_SEQUENCE}")
        record = _text(predicate, "recordSha256")
        lock = _text(predicate, "lockSha256") if "lockSha256" in predicate else None
        for value in filter(None, (digest, record, lock)):
            if not _DIGEST.fullmatch(value):
                raise ValueError("a digest is not 64 lower-case hex digits")
        return Statement(
            filename=_text(subjects[0], "name"),
            sha256=digest,
            publisher=_text(predicate, "publisher"),
            plugin=_text(predicate, "plugin"),
            version=_text(predicate, "version"),
            sequence=sequence,
            issued_at=_instant(_text(predicate, "issuedAt")),
            record_sha256=record,
            lock_sha256=lock,
            valid_until=_instant(_text(predicate, "validUntil")) if "validUntil" in predicate else None,
        )
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        detail = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ReleaseRefusedError("malformed", f"the signed statement is malformed: {detail}") from None


def _object(payload: bytes) -> dict[str, Any]:
    try:
        found = strict_json.loads(payload)
    except ValueError as error:
        raise ReleaseRefusedError("malformed", f"the signed statement is no strict JSON: {error}") from None
    if not isinstance(found, dict):
        raise ReleaseRefusedError("malformed", "the signed statement is no object")
    return found


def _text(found: Any, name: str) -> str:
    value = found[name]
    if not isinstance(value, str) or not 0 < len(value) <= _SHORT or not value.isprintable():
        raise ValueError(f"{name} is no short, printable string")
    return value


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"the time {text} has no offset")
    return found.astimezone(UTC)


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
