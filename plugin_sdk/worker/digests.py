"""What every file in a plugin's folders hashes to: written by the host, looked up by the importer in the worker.

One block of bytes, because a large library has thousands of files, and as many objects of Python would be private
memory of every worker. For each folder there is a head (length of its path, number of files), its path, where each row
begins and the last one ends, and the rows in the order of their paths: SHA-256, path. The standard library alone is
imported here: a worker that starts cold needs it before it may see any other.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final

_HEAD: Final = struct.Struct("<II")
_DIGEST: Final = 32
_AFTER_SLASH: Final = b"0"
"""What sorts right behind all that is below a folder."""


def hash_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The SHA-256 of each file; 2 GB take about a second."""
    return {path: hashlib.sha256(content).digest() for path, content in files.items()}


def pack(folders: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Folders to the SHA-256 of each of their files, whose paths are relative, with `/`."""
    blocks: list[bytes] = []
    for folder, files in folders.items():
        begins, rows = array("I", [0]), bytearray()
        for path, digest in sorted((path.encode(), digest) for path, digest in files.items()):
            rows += digest + path
            begins.append(len(rows))
        name = folder.encode()
        blocks += (_HEAD.pack(len(name), len(files)), name, begins.tobytes(), bytes(rows))
    return b"".join(blocks)


def unpack(packed: bytes) -> tuple[FolderDigests, ...]:
    """The folders of a packed block."""
    found: list[FolderDigests] = []
    at = 0
    while at < len(packed):
        length, files = _HEAD.unpack_from(packed, at)
        at += _HEAD.size
        folder = packed[at : at + length].decode()
        at += length
        begins = array("I")
        begins.frombytes(packed[at : at + (files + 1) * begins.itemsize])
        at += (files + 1) * begins.itemsize
        found.append(FolderDigests(folder, begins, packed[at : at + begins[-1]]))
        at += begins[-1]
    return tuple(found)


class FolderDigests:
    """The files of one folder. What is not in here is not there, whatever the disk has.

    Attributes:
        folder: Where they are.
    """

    __slots__ = ("_begins", "_rows", "folder")

    def __init__(self, folder: str, begins: array[int], rows: bytes) -> None:
        self.folder = folder
        self._begins = begins
        self._rows = rows

    def __len__(self) -> int:
        return len(self._begins) - 1

    def find(self, path: str) -> bytes | None:
        """The SHA-256 of a file, or None where there is no such file."""
        wanted = path.encode(errors="surrogateescape")
        row = self._first_from(wanted)
        if row == len(self) or self._path(row) != wanted:
            return None
        return self._rows[self._begins[row] : self._begins[row] + _DIGEST]

    def has_any(self, prefix: str) -> bool:
        """Whether the path of any file begins like this."""
        wanted = prefix.encode(errors="surrogateescape")
        row = self._first_from(wanted)
        return row < len(self) and self._path(row).startswith(wanted)

    def entries(self, below: str) -> Iterator[tuple[str, bool]]:
        """Names of what is directly below a folder (`""`, or with a `/` at its end), and whether each is one itself."""
        prefix = below.encode(errors="surrogateescape")
        row = self._first_from(prefix)
        while row < len(self) and self._path(row).startswith(prefix):
            name, slash, _ = self._path(row)[len(prefix) :].partition(b"/")
            yield name.decode(), bool(slash)
            row = self._first_from(prefix + name + _AFTER_SLASH) if slash else row + 1

    def _first_from(self, path: bytes) -> int:
        return bisect_left(range(len(self)), path, key=self._path)

    def _path(self, row: int) -> bytes:
        return self._rows[self._begins[row] + _DIGEST : self._begins[row + 1]]
