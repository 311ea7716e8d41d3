"""The ZIP structure of a wheel, read strictly: what two readers could see differently is refused.

APPNOTE.TXT of PKWARE, sections 4.3 and 4.4. One end record at the very end, a central directory right before
it, and before that the entries, each right behind the other, each with a local header that says the same.
"""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from host.supply.errors import WheelRefusedError

MAX_ENTRIES: Final = 10_000
MAX_FILE: Final = 64 * 2**20
MAX_TOTAL: Final = 512 * 2**20
MAX_ARCHIVE: Final = MAX_TOTAL + 64 * 2**20
"""No larger one can hold what is allowed: the headers of all entries with their names take a quarter of the rest."""
MAX_RATIO: Final = 100
RATIO_FLOOR: Final = 64 * 1024
"""Below this size a file may shrink by any ratio: a short run of blanks is no bomb."""

_EOCD: Final = struct.Struct("<4s4H2LH")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_STORED: Final = 0
_DEFLATED: Final = 8
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_DESCRIPTOR: Final = 0x8
_UTF8: Final = 0x800
_KNOWN: Final = _UTF8 | 0x2 | 0x4
"""The flags that an entry may have; the latter two only say how hard it was deflated."""
_NEEDED: Final = 45
"""The highest version of the format that a reader may need: that of ZIP64's sizes, which some only say twice."""
_UNIX: Final = 3
_UNICODE_PATH: Final = 0x7075
_ZIP64: Final = 0x0001
_ZIP64_COUNT: Final = 0xFFFF
_ZIP64_OFFSET: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder of the archive; `name` as its bytes stand there."""

    name: bytes
    utf8: bool
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    data_at: int

    @property
    def folder(self) -> bool:
        """Whether it is a folder's entry."""
        return self.name.endswith(b"/")


def read_structure(wheel: bytes) -> tuple[Entry, ...]:
    """The entries of an archive, in the order of the central directory.

    Raises:
        WheelRefusedError: with the rule that is broken; nothing was inflated.
    """
    if not wheel.startswith(b"PK\x03\x04"):
        if wheel[257:262] == b"ustar" or wheel[:2] in {b"\x1f\x8b", b"BZ"} or b"PK\x05\x06" not in wheel[-65557:]:
            raise WheelRefusedError("not_a_wheel", "the file is no ZIP archive")
        raise _structure("something stands before the first entry")
    if len(wheel) < _EOCD.size or wheel[-_EOCD.size :][:4] != b"PK\x05\x06":
        raise _structure("the end record does not stand at the very end: comments and trailing bytes are not allowed")
    _, disk, start_disk, here, total, size, offset, comment = _EOCD.unpack(wheel[-_EOCD.size :])
    if disk or start_disk or here != total or comment:
        raise _structure("the end record speaks of other disks, or of a comment")
    if total == _ZIP64_COUNT or offset == _ZIP64_OFFSET:
        raise _structure("ZIP64 is not allowed: no plugin is that large")
    if total > MAX_ENTRIES:
        raise WheelRefusedError("size_limit", f"{total} entries; {MAX_ENTRIES} are allowed")
    if offset + size != len(wheel) - _EOCD.size:
        raise _structure("the central directory does not end where the end record begins")
    entries = _central(wheel, offset, total, len(wheel) - _EOCD.size)
    _check_contiguous(entries, offset)
    declared = sum(entry.size for entry in entries)
    if declared > MAX_TOTAL:
        raise WheelRefusedError("size_limit", f"{declared} bytes unpacked; {MAX_TOTAL} are allowed")
    return entries


def inflate(wheel: bytes, entry: Entry) -> bytes:
    """The content of an entry, bounded by what it declares.

    Raises:
        WheelRefusedError: more or fewer bytes than declared, another checksum, or too high a ratio.
    """
    packed = wheel[entry.data_at : entry.data_at + entry.packed]
    if entry.method == _STORED:
        content = packed
    else:
        if entry.size > max(RATIO_FLOOR, entry.packed * MAX_RATIO):
            raise WheelRefusedError(
                "size_limit", f"{_shown(entry.name)} shrinks to less than 1/{MAX_RATIO} of its size"
            )
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = unpack.decompress(packed, entry.size + 1)
            rest = unpack.flush() if unpack.eof else b""
        except zlib.error as error:
            raise _structure(f"{_shown(entry.name)} cannot be inflated: {error}") from None
        if not unpack.eof or unpack.unused_data or unpack.unconsumed_tail or rest:
            raise _structure(f"{_shown(entry.name)} does not hold what its header declares")
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise _structure(f"{_shown(entry.name)} does not hold what its header declares")
    return content


def _central(wheel: bytes, at: int, total: int, end: int) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for _ in range(total):
        if at + _CENTRAL.size > end:
            raise _structure("the central directory is cut short")
        (
            magic,
            made_by,
            needed,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            size,
            name_len,
            extra_len,
            comment_len,
            disk,
            _,
            mode,
            local,
        ) = _CENTRAL.unpack(wheel[at : at + _CENTRAL.size])
        if magic != b"PK\x01\x02" or disk or comment_len:
            raise _structure("a central header is malformed, or has a comment")
        name_at = at + _CENTRAL.size
        at = name_at + name_len + extra_len
        if at > end:
            raise _structure("the central directory is cut short")
        name = wheel[name_at : name_at + name_len]
        _check_entry(name, flags, method, size, made_by >> 8, mode >> 16)
        _check_needed(name, needed)
        _check_extra(name, wheel[name_at + name_len : at])
        data_at = _check_local(wheel, local, name, flags, method, crc, packed, size)
        entries.append(Entry(name, bool(flags & _UTF8), method, crc, packed, size, local, data_at))
    if at != end:
        raise _structure("the central directory holds more than its entries")
    return tuple(entries)


def _check_entry(name: bytes, flags: int, method: int, size: int, system: int, mode: int) -> None:
    if flags & _ENCRYPTED:
        raise WheelRefusedError("encrypted_entry", f"{_shown(name)} is encrypted")
    if flags & _DESCRIPTOR:
        raise _structure(f"{_shown(name)} has a data descriptor: build the wheel with a backend that writes none")
    if flags & ~_KNOWN:
        raise _structure(f"{_shown(name)} has the flags {flags:#x}, which change how it is read")
    if method not in {_STORED, _DEFLATED}:
        raise WheelRefusedError(
            "compression_method",
            f"{_shown(name)} is packed by method {method}: only stored and deflated are read",
        )
    kind = stat.S_IFMT(mode)
    if system == _UNIX and kind and not (stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and name.endswith(b"/"))):
        raise WheelRefusedError("non_regular_entry", f"{_shown(name)} is no regular file")
    if size > MAX_FILE:
        raise WheelRefusedError("size_limit", f"{_shown(name)} has {size} bytes; {MAX_FILE} are allowed")


def _check_needed(name: bytes, version: int) -> None:
    if version > _NEEDED:
        raise _structure(f"{_shown(name)} needs a reader of version {version / 10}")


def _check_extra(name: bytes, extra: bytes, repeated: bytes = b"") -> None:
    """`repeated` are ZIP64 sizes that only say once more what the header says, as some build tools write them."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack("<HH", extra[at : at + 4])
        body = extra[at + 4 : at + 4 + size]
        if kind == _UNICODE_PATH or (kind == _ZIP64 and body != repeated):
            raise _structure(f"{_shown(name)} has a second name or ZIP64 sizes")
        at += 4 + size
    if at != len(extra):
        raise _structure(f"{_shown(name)} has a malformed extra field")


def _check_local(wheel: bytes, at: int, name: bytes, flags: int, method: int, crc: int, packed: int, size: int) -> int:
    header = wheel[at : at + _LOCAL.size]
    if len(header) < _LOCAL.size:
        raise _structure(f"{_shown(name)} has no local header")
    magic, needed, l_flags, l_method, _, _, l_crc, l_packed, l_size, name_len, extra_len = _LOCAL.unpack(header)
    l_name = wheel[at + _LOCAL.size : at + _LOCAL.size + name_len]
    if magic != b"PK\x03\x04" or (l_name, l_flags, l_method, l_crc, l_packed, l_size) != (
        name,
        flags,
        method,
        crc,
        packed,
        size,
    ):
        raise _structure(f"the local header of {_shown(name)} differs from the central one")
    _check_needed(name, needed)
    if method == _STORED and packed != size:
        raise _structure(f"{_shown(name)} is stored with two sizes")
    extra = wheel[at + _LOCAL.size + name_len : at + _LOCAL.size + name_len + extra_len]
    _check_extra(name, extra, repeated=struct.pack("<QQ", size, packed))
    return at + _LOCAL.size + int(name_len) + int(extra_len)


def _check_contiguous(entries: tuple[Entry, ...], end: int) -> None:
    at = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset != at:
            raise _structure("entries overlap, or something stands between them")
        at = entry.data_at + entry.packed
    if at != end:
        raise _structure("something stands between the entries and the central directory")


def _structure(why: str) -> WheelRefusedError:
    return WheelRefusedError("zip_structure", f"the archive can be read in more than one way: {why}")


def _shown(name: bytes) -> str:
    return ascii(name.decode("utf-8", "backslashreplace"))[:120]
