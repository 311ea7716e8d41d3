"""Signing a wheel: one more line beside it. The wheel itself is read, and never changed."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from pathlib import Path

from host.supply.trust.dsse import PAYLOAD_TYPE, Envelope, Signature, dump, pae, parse_bundle
from host.supply.trust.keys import PrivateKey
from host.supply.trust.statement import Statement
from host.supply.wheel.reader import read_wheel


def attestations_of(wheel: Path) -> Path:
    """The file beside a wheel that holds its attestations."""
    return wheel.with_name(wheel.name + ".intoto.jsonl")


def sign_wheel(
    wheel: Path,
    key: PrivateKey,
    *,
    publisher: str,
    sequence: int | None,
    issued_at: datetime,
    provided: dict[str, str],
    valid_until: datetime | None = None,
) -> Statement:
    """Sign a wheel and add the line to its attestations; what was signed.

    The wheel is read as strictly as a host will read it, so that what cannot be installed is not signed.
    `sequence` defaults to the microseconds since the epoch: two releases may be signed within a second.

    Raises:
        SupplyError: the wheel breaks a rule, or the attestations that are there are malformed, or too many.
        OSError: a file cannot be read or written.
    """
    content = wheel.read_bytes()
    read = read_wheel(content, wheel.name, provided)
    statement = Statement(
        filename=wheel.name,
        sha256=hashlib.sha256(content).hexdigest(),
        publisher=publisher,
        plugin=read.manifest.plugin.id,
        version=read.version,
        sequence=int(issued_at.timestamp() * 1_000_000) if sequence is None else sequence,
        issued_at=issued_at,
        record_sha256=read.record_sha256,
        lock_sha256=None if read.lock is None else read.lock.sha256,
        valid_until=valid_until,
    )
    payload = statement.dump()
    signature = Signature(key.public.id, key.sign(pae(PAYLOAD_TYPE, payload)))
    line = dump(Envelope(PAYLOAD_TYPE, payload, (signature,)))
    beside = attestations_of(wheel)
    before = beside.read_bytes() if beside.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    bundle = before + line + b"\n"
    parse_bundle(bundle)  # a line too many would make the lines before it worthless
    _replace(beside, bundle)
    return statement


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
