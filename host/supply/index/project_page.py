"""What an index says about a project, as values; and the checks of all text in it, whichever form it came in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from packaging.utils import canonicalize_name
from yarl import URL

from host.supply.index.errors import IndexAnswerError

MAJOR: Final = "1"
MAX_FILES: Final = 20_000
MAX_FILENAME: Final = 255
MAX_SPECIFIER: Final = 200
MAX_TEXT: Final = 2000
ACTIVE: Final = "active"
QUARANTINED: Final = "quarantined"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class OfferedAttestations:
    """Where the index says that the attestations of a file are, and what their hash is."""

    url: URL
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A file of a project.

    `yanked` is the reason, which may be empty, or None where it is not yanked; `metadata_sha256` is of the METADATA in
    the wheel, as the index says (PEP 658). `size` is in bytes.
    """

    filename: str
    url: URL
    sha256: str | None = None
    size: int | None = None
    requires_python: str | None = None
    yanked: str | None = None
    metadata_sha256: str | None = None
    attestations: OfferedAttestations | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """A project of an index. `status` is one of PEP 792's words, or another that this host does not know."""

    name: str
    files: tuple[ProjectFile, ...]
    status: str = ACTIVE
    reason: str = ""


def normalised(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are names of projects, normalised (PEP 503), each once, sorted."""
    return tuple(sorted({str(canonicalize_name(name)) for name in names if _NAME.fullmatch(name)}))


def check_version(version: str, index: str) -> None:
    """Refuse an answer in a version of the API that is not read here.

    Raises:
        IndexAnswerError: its major is not 1.
    """
    if version.partition(".")[0] != MAJOR:
        raise IndexAnswerError(f"index {index} answers in version {ascii(version)[:20]} of the API; 1.x is read here")


def check_count(files: int, index: str) -> None:
    """Refuse a project with more files than anyone has.

    Raises:
        IndexAnswerError: there are more than `MAX_FILES`.
    """
    if files > MAX_FILES:
        raise IndexAnswerError(f"index {index} answers with {files} files of one project; {MAX_FILES} are read")


def each_once(files: Iterable[ProjectFile], index: str) -> tuple[ProjectFile, ...]:
    """The files, those that stand there twice once.

    Raises:
        IndexAnswerError: of one name there are two that are not the same.
    """
    found: dict[str, ProjectFile] = {}
    for file in files:
        if found.setdefault(file.filename, file) != file:
            raise IndexAnswerError(f"index {index} answers with two different files named {file.filename}")
    return tuple(found.values())


def plain(text: str, index: str, limit: int = MAX_TEXT) -> str:
    """The text, which will be logged and shown.

    Raises:
        IndexAnswerError: it is too long, or has characters that drive terminals, logs or pages.
    """
    if len(text) > limit or not text.isprintable():
        raise IndexAnswerError(f"index {index} answers with text that is too long or not printable: {text[:60]!a}")
    return text


def checked_filename(name: str, index: str) -> str:
    """The name of a file, which is one in any folder.

    A wheel's name may have anything in its build tag, and anything more beside a tag that fits, as far as
    `packaging` looks.

    Raises:
        IndexAnswerError: it is a path, or no text that can be shown.
    """
    if "/" in name or "\\" in name:
        raise IndexAnswerError(f"index {index} answers with a file name that is a path: {name[:60]!a}")
    return plain(name, index, MAX_FILENAME)


def checked_sha256(digest: str | None, index: str) -> str | None:
    """The digest in the one way of writing it.

    Raises:
        IndexAnswerError: it is no SHA-256.
    """
    if digest is not None and not _SHA256.fullmatch(digest):
        raise IndexAnswerError(f"index {index} answers with {ascii(digest)[:80]}, which is no SHA-256")
    return digest
