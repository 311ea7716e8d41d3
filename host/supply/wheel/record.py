"""RECORD: every file of a wheel with its hash and size (PyPA, "Recording installed projects"), held strictly."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Mapping
from typing import Final

from host.supply.errors import WheelRefusedError
from host.supply.wheel.names import check_path

MAX_RECORD: Final = 4 * 2**20
ALGORITHMS: Final = frozenset({"sha256", "sha384", "sha512"})


def parse_record(content: bytes, record_name: str) -> dict[str, tuple[str, str]]:
    """Path to (algorithm, base64url digest) for every file but RECORD itself; sizes are checked by `check`.

    Raises:
        WheelRefusedError: with the rule.
    """
    return {path: (algorithm, digest) for path, (algorithm, digest, _) in _rows(content, record_name).items()}


def check_record(content: bytes, record_name: str, files: Mapping[str, bytes]) -> None:
    """Hold the archive's files against its RECORD: none missing, none extra, every hash and size equal.

    Raises:
        WheelRefusedError: with the rule.
    """
    rows = _rows(content, record_name)
    extra = sorted(files.keys() - rows.keys() - {record_name})
    missing = sorted(rows.keys() - files.keys())
    if extra or missing:
        which = f"{extra[0]} is not in RECORD" if extra else f"RECORD lists {missing[0]}, which is not there"
        raise WheelRefusedError("record_mismatch", which)
    for path, (algorithm, digest, size) in rows.items():
        body = files[path]
        if digest_of(algorithm, body) != digest or (size and size != str(len(body))):
            raise WheelRefusedError("record_mismatch", f"{path} is not what RECORD says")


def digest_of(algorithm: str, content: bytes) -> str:
    """A digest as RECORD writes it."""
    raw = hashlib.new(algorithm, content).digest()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _rows(content: bytes, record_name: str) -> dict[str, tuple[str, str, str]]:
    if len(content) > MAX_RECORD:
        raise WheelRefusedError("size_limit", f"RECORD has {len(content)} bytes; {MAX_RECORD} are allowed")
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise WheelRefusedError("record_malformed", f"RECORD is no CSV in UTF-8: {error}") from None
    found: dict[str, tuple[str, str, str]] = {}
    own = False
    for row in rows:
        if len(row) != 3:  # noqa: PLR2004 - path, hash, size
            raise WheelRefusedError("record_malformed", f"a row of RECORD has {len(row)} fields, not 3")
        path, hashed, size = row
        check_path(path)
        if path in found or (path == record_name and own):
            raise WheelRefusedError("record_duplicate_row", f"RECORD lists {path} twice")
        if path == record_name:
            if hashed or size:
                raise WheelRefusedError("record_malformed", "RECORD cannot hold its own hash")
            own = True
            continue
        algorithm, _, digest = hashed.partition("=")
        if not digest:
            raise WheelRefusedError("record_mismatch", f"RECORD has no hash for {path}")
        if algorithm not in ALGORITHMS:
            raise WheelRefusedError("weak_hash", f"RECORD hashes {path} with {algorithm}")
        found[path] = (algorithm, digest, size)
    if not own:
        raise WheelRefusedError("record_malformed", "RECORD does not list itself")
    return found
