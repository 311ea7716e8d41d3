"""Advisories from a local snapshot: a folder of OSV files, JSON lines, or the ZIP that OSV publishes for an ecosystem.

Only the advisories about the wanted distributions are kept, so the memory that a snapshot takes is that of one
entry. Functions here block; callers run them in a thread.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

import msgspec

from host.storage.beneath import open_plain
from host.storage.errors import OddFileError
from host.supply.scan.advisory import Advisory

MAX_ENTRY: Final = 8 * 2**20
"""Bytes of one advisory."""
MAX_TOTAL: Final = 4 * 2**30
"""Bytes of all of them, unpacked; the whole of PyPI is a twentieth of that."""
MAX_ENTRIES: Final = 500_000
_ZIP: Final = b"PK"
_SKEW: Final = timedelta(days=1)


class SnapshotError(Exception):
    """A snapshot that cannot be read, with why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot says about some distributions.

    Attributes:
        advisories: Those about the wanted distributions.
        entries: How many advisories it has in all.
        unreadable: How many could not be read.
        newest: When the newest of them was changed: so fresh is the snapshot; None where no entry says so.
    """

    advisories: tuple[Advisory, ...]
    entries: int
    unreadable: int
    newest: datetime | None


def read_snapshot(path: Path, names: AbstractSet[str], now: datetime) -> Snapshot:
    """Read what a snapshot says about the distributions of those normalised names.

    Raises:
        SnapshotError: it cannot be read, or is larger than a snapshot may be.
    """
    decoder = msgspec.json.Decoder(Advisory)
    kept: list[Advisory] = []
    entries = unreadable = 0
    newest: datetime | None = None
    try:
        for raw in _entries(path):
            entries += 1
            try:
                advisory = decoder.decode(raw)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                unreadable += 1
                continue
            changed = _instant(advisory.modified)
            # One from the future would keep the snapshot fresh for ever.
            if changed is not None and changed <= now + _SKEW and (newest is None or changed > newest):
                newest = changed
            if advisory.about_any(names):
                kept.append(advisory)
    except OddFileError as error:
        raise SnapshotError(f"the advisories in {path} cannot be read: {error.message}") from None
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise SnapshotError(f"the advisories in {path} cannot be read: {error}") from None
    if not entries:
        raise SnapshotError(f"there are no advisories in {path}: give a folder of OSV files, JSON lines, or a ZIP")
    return Snapshot(tuple(kept), entries, unreadable, newest)


def _instant(modified: datetime | None) -> datetime | None:
    if modified is None:
        return None
    return modified.replace(tzinfo=UTC) if modified.tzinfo is None else modified.astimezone(UTC)


def _entries(path: Path) -> Iterator[bytes]:
    """Each advisory's bytes, bounded one by one and in all."""
    total = 0
    for number, raw in enumerate(_raw_entries(path)):
        total += len(raw)
        if number >= MAX_ENTRIES or total > MAX_TOTAL:
            raise ValueError(f"there are more than {MAX_ENTRIES} advisories or {MAX_TOTAL} bytes of them")
        yield raw


def _raw_entries(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        for found in sorted(path.rglob("*.json")):
            with os.fdopen(open_plain(found), "rb") as file:
                yield _bounded(file, found.name)
        return
    with os.fdopen(open_plain(path), "rb") as file:
        if file.read(len(_ZIP)) == _ZIP:
            yield from _zipped(file)
        else:
            file.seek(0)
            yield from _lines(file)


def _zipped(file: IO[bytes]) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".json"):
                with archive.open(info) as entry:
                    yield _bounded(entry, info.filename)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(MAX_ENTRY + 1):
        if len(line) > MAX_ENTRY:
            raise ValueError(f"a line has more than {MAX_ENTRY} bytes")
        if line.strip():
            yield line


def _bounded(file: IO[bytes], name: str) -> bytes:
    raw = file.read(MAX_ENTRY + 1)
    if len(raw) > MAX_ENTRY:
        raise ValueError(f"{name} has more than {MAX_ENTRY} bytes")
    return raw
