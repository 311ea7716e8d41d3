"""ZIP archives written by hand, header by header, so that any field of any header can lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STORED, DEFLATED = 0, 8
ENCRYPTED, DESCRIPTOR, UTF8 = 0x1, 0x8, 0x800
UNIX = 3


@dataclass(frozen=True)
class Entry:
    """One entry that is good unless told otherwise.

    `local` and `central` replace fields of one header: name, version, flags, method, crc, packed, size, extra, and in
    the central one mode, system, offset and comment. `raw` stands in the place of the packed bytes.
    """

    name: bytes | str
    content: bytes = b""
    method: int = DEFLATED
    mode: int = 0o100644
    flags: int = 0
    raw: bytes | None = None
    extra: bytes = b""
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    only_local: bool = False
    descriptor: bool = False


def archive(
    entries: Iterable[Entry],
    *,
    prefix: bytes = b"",
    gap: bytes = b"",
    after: bytes = b"",
    comment: bytes = b"",
    end: Mapping[str, int] | None = None,
    before_end: bytes = b"",
) -> bytes:
    """A ZIP of the entries.

    `prefix` stands before the first entry, `gap` before the central directory, `before_end` behind it, `after` at the
    end; `end` replaces fields of the end record: disk, start_disk, here, total, size, offset.
    """
    out = bytearray(prefix)
    central = bytearray()
    count = 0
    for entry in entries:
        fields = _fields(entry, len(out))
        out += _local({**fields, **entry.local})
        out += fields["data"]
        if entry.descriptor:
            out += b"PK\x07\x08" + struct.pack("<3L", fields["crc"], fields["packed"], fields["size"])
        if not entry.only_local:
            central += _central({**fields, **entry.central})
            count += 1
    out += gap
    stated = {"disk": 0, "start_disk": 0, "here": count, "total": count, "size": len(central), "offset": len(out)}
    stated |= end or {}
    out += central + before_end
    out += struct.pack("<4s4H2LH", b"PK\x05\x06", *stated.values(), len(comment)) + comment
    return bytes(out + after)


def pack(content: bytes, method: int = DEFLATED) -> bytes:
    """Content as an archive holds it."""
    if method != DEFLATED:
        return content
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(content) + deflate.flush()


def _fields(entry: Entry, offset: int) -> dict[str, Any]:
    name = entry.name.encode() if isinstance(entry.name, str) else entry.name
    data = pack(entry.content, entry.method) if entry.raw is None else entry.raw
    flags = entry.flags | (0 if name.isascii() else UTF8) | (DESCRIPTOR if entry.descriptor else 0)
    return {
        "name": name,
        "version": 20,
        "flags": flags,
        "method": entry.method,
        "crc": zlib.crc32(entry.content),
        "packed": len(data),
        "size": len(entry.content),
        "extra": entry.extra,
        "mode": entry.mode,
        "system": UNIX,
        "offset": offset,
        "comment": b"",
        "data": data,
    }


def _local(given: Mapping[str, Any]) -> bytes:
    zeroed = {"crc": 0, "packed": 0, "size": 0} if given["flags"] & DESCRIPTOR else {}
    of = {**given, **zeroed}
    return (
        struct.pack(
            "<4s5H3L2H",
            b"PK\x03\x04",
            of["version"],
            of["flags"],
            of["method"],
            0,
            0x21,
            of["crc"],
            of["packed"],
            of["size"],
            len(of["name"]),
            len(of["extra"]),
        )
        + of["name"]
        + of["extra"]
    )


def _central(of: Mapping[str, Any]) -> bytes:
    return (
        struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            20 | of["system"] << 8,
            of["version"],
            of["flags"],
            of["method"],
            0,
            0x21,
            of["crc"],
            of["packed"],
            of["size"],
            len(of["name"]),
            len(of["extra"]),
            len(of["comment"]),
            0,
            0,
            of["mode"] << 16,
            of["offset"],
        )
        + of["name"]
        + of["extra"]
        + of["comment"]
    )
