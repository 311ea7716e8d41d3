"""Compiled code from a plugin's folders, loaded from private copies of the bytes that were hashed.

The dynamic linker opens files by their names, again and by itself, after anyone has compared them. So what it is given
is a copy without a name: a sealed memory file, or, where the sandbox refuses those (they are memory that no limit
counts), an unlinked file in the plugin's own folder. The libraries that a wheel brings for its modules, and finds
through `$ORIGIN`, are loaded before them in the same way: the linker takes a library that is there already by the name
that it has for itself.

Formats: elf(5); how the linker searches: ld.so(8).
"""

# ruff: noqa: PTH118, PTH119, PTH120, PTH123 - the import system and the linker speak of paths as text

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import itertools
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from typing import Final, Protocol

CHUNK: Final = 256 * 1024
"""What is copied at once: libraries are large, and memory that was once taken for one stays with the worker."""
_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_PROGRAM_HEADERS_AT: Final = 32
_PROGRAM_HEADERS_SIZES_AT: Final = 54
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class HashedFiles(Protocol):
    """Files that were hashed before."""

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        ...

    def open(self, path: str) -> int:
        """A descriptor of the file."""
        ...

    def check(self, path: str, digest: bytes) -> None:
        """Refuse what does not hash to what the file must: an ImportError is raised."""
        ...


class SharedObjects:
    """The compiled code that this process has loaded from private copies; one for a process, as its linker is."""

    def __init__(self) -> None:
        self._turn = threading.RLock()
        self._numbers = itertools.count()
        self._names: dict[tuple[str, bytes], str] = {}
        self._libraries: dict[str, ctypes.CDLL | None] = {}

    @contextlib.contextmanager
    def copy_of(self, path: str, files: HashedFiles) -> Iterator[str]:
        """The name under which the linker finds what was hashed, now; what it needs from beside it is loaded.

        Raises:
            ImportError: the file is another, or a library that it needs cannot be loaded.
        """
        with self._turn, _private(path, files) as (descriptor, digest):
            for library in _beside(path, descriptor):
                if library not in self._libraries and files.has(library):
                    self._load(library, files)
            known = self._names.get((path, digest))
            if known is not None:
                yield known  # loaded already: the linker knows it by that name, and opens nothing
                return
            # The linker takes an equal name for the same file, and numbers of descriptors are given out again.
            name = f"/proc/self/{'./' * next(self._numbers)}fd/{descriptor}"
            yield name
            self._names[path, digest] = name

    def _load(self, path: str, files: HashedFiles) -> None:
        """Load a library, for good."""
        self._libraries[path] = None  # two may need each other
        try:
            with self.copy_of(path, files) as name:
                self._libraries[path] = ctypes.CDLL(name, mode=os.RTLD_NOW)
        except OSError as error:
            raise ImportError(f"{os.path.basename(path)} cannot be loaded: {error}", path=path) from None
        finally:
            if self._libraries[path] is None:
                del self._libraries[path]


@contextlib.contextmanager
def _private(path: str, files: HashedFiles) -> Iterator[tuple[int, bytes]]:
    """A file that no other name leads to, with the bytes that were hashed, and their hash."""
    source = files.open(path)
    try:
        copy, digest = _copied(source)
    finally:
        os.close(source)
    try:
        files.check(path, digest)
        yield copy, digest
    finally:
        os.close(copy)


def _copied(source: int) -> tuple[int, bytes]:
    """A copy of an open file, open for reading alone, and the SHA-256 of what is in it.

    Where the plugin's folder takes nothing more, it is the file itself, opened once: one that takes its place later is
    not what is loaded; what is written into it in place later could be.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with contextlib.suppress(OSError), open(os.memfd_create("verified", flags), "wb", buffering=0) as memory:
        digest = _hash(source, memory.fileno())
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        return os.dup(memory.fileno()), digest
    with contextlib.suppress(OSError), tempfile.TemporaryFile(buffering=0) as unlinked:
        digest = _hash(source, unlinked.fileno())
        return os.open(f"/proc/self/fd/{unlinked.fileno()}", os.O_RDONLY | os.O_CLOEXEC), digest
    return os.dup(source), _hash(source, None)


def _hash(source: int, copy: int | None) -> bytes:
    """The SHA-256 of an open file, from its beginning, and where wanted the same bytes written into another."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK))
    os.lseek(source, 0, os.SEEK_SET)
    while size := os.readv(source, [chunk]):
        digest.update(chunk[:size])
        rest = chunk[:size]
        while copy is not None and rest:
            rest = rest[os.write(copy, rest) :]
    return digest.digest()


def _beside(path: str, descriptor: int) -> list[str]:
    """Where the linker would look for what a file needs, relative to the file; most of it is not there."""
    if not os.fstat(descriptor).st_size:
        return []
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
        needed, folders = _dynamic(content)
    origin = os.path.dirname(path)
    return [
        os.path.normpath(os.path.join(folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin), name))
        for name in needed
        for folder in folders
        if folder.startswith(("$ORIGIN", "${ORIGIN}"))
    ]


def _dynamic(content: mmap.mmap) -> tuple[list[str], list[str]]:
    """The libraries that an ELF file needs, and the folders that it says they are in; nothing where it is none."""
    if content[: len(_ELF64_LITTLE)] != _ELF64_LITTLE:
        return [], []  # the linker says what is wrong with it
    try:
        headers = list(_program_headers(content))
        at, size = next((offset, size) for kind, offset, _, size in headers if kind == _PT_DYNAMIC)
        entries: list[tuple[int, int]] = []
        for tag, value in _DYNAMIC.iter_unpack(content[at : at + size - size % _DYNAMIC.size]):
            if not tag:
                break
            entries.append((tag, value))
        address = next(value for tag, value in entries if tag == _DT_STRTAB)
        strings = next(
            address - start + offset
            for kind, offset, start, size in headers
            if kind == _PT_LOAD and start <= address < start + size
        )
    except (struct.error, StopIteration):
        return [], []

    def text(value: int) -> str:
        begin = strings + value
        return os.fsdecode(content[begin : content.find(b"\0", begin)])

    needed = [text(value) for tag, value in entries if tag == _DT_NEEDED]
    folders = [part for tag, value in entries if tag in {_DT_RPATH, _DT_RUNPATH} for part in text(value).split(":")]
    return needed, folders


def _program_headers(content: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    """Kind, place in the file, address and size in the file of each."""
    (first,) = struct.unpack_from("<Q", content, _PROGRAM_HEADERS_AT)
    size, count = struct.unpack_from("<HH", content, _PROGRAM_HEADERS_SIZES_AT)
    for number in range(count):
        kind, _flags, offset, address, _physical, length = _PROGRAM_HEADER.unpack_from(content, first + number * size)
        yield kind, offset, address, length
