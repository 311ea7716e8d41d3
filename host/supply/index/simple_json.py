"""Pages of an index in JSON (PEP 691): what the format does not know is ignored, what it knows and is wrong refused."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from packaging.utils import canonicalize_name
from yarl import URL

from host.supply.index.errors import IndexAnswerError
from host.supply.index.project_page import (
    ACTIVE,
    MAX_SPECIFIER,
    OfferedAttestations,
    Project,
    ProjectFile,
    check_count,
    check_version,
    checked_filename,
    checked_sha256,
    each_once,
    plain,
)
from host.supply.index.transport import Page, absolute


class _Attestations(msgspec.Struct):
    url: str
    hashes: dict[str, str] = {}


class _File(msgspec.Struct):
    filename: str
    url: str
    hashes: dict[str, str] = {}
    size: int | None = None
    requires_python: str | None = msgspec.field(name="requires-python", default=None)
    yanked: bool | str = False
    core_metadata: bool | dict[str, str] = msgspec.field(name="core-metadata", default=False)
    attestations: _Attestations | None = msgspec.field(name="_attestations", default=None)


class _Status(msgspec.Struct):
    status: str = ACTIVE
    reason: str | None = None


class _Meta(msgspec.Struct):
    api_version: str = msgspec.field(name="api-version")
    # The written specification has the status here, indexes have it beside `meta`; both are read.
    project_status: str | None = msgspec.field(name="project-status", default=None)
    project_status_reason: str | None = msgspec.field(name="project-status-reason", default=None)


class _Project(msgspec.Struct):
    meta: _Meta
    name: str
    files: list[_File]
    project_status: _Status | None = msgspec.field(name="project-status", default=None)


class _Named(msgspec.Struct):
    name: str


class _Projects(msgspec.Struct):
    meta: _Meta
    projects: list[_Named]


def project(page: Page, name: str, index: str) -> Project:
    """The page of a project.

    Raises:
        IndexAnswerError: it is none, or another's.
        BadOriginError: an address in it is none.
    """
    found = _decoded(page, _Project, index)
    check_version(found.meta.api_version, index)
    check_count(len(found.files), index)
    if canonicalize_name(found.name) != name:
        raise IndexAnswerError(f"index {index} answers with the page of another project than {name}")
    status = found.project_status or _Status(found.meta.project_status or ACTIVE, found.meta.project_status_reason)
    return Project(
        name=name,
        files=each_once((_file(one, page.url, index) for one in found.files), index),
        status=plain(status.status, index),
        reason=plain(status.reason or "", index),
    )


def names(page: Page, index: str) -> tuple[str, ...]:
    """The names of the projects, as they are written.

    Raises:
        IndexAnswerError: it is no list of projects.
    """
    found = _decoded(page, _Projects, index)
    check_version(found.meta.api_version, index)
    return tuple(one.name for one in found.projects)


Form = TypeVar("Form")


def _decoded(page: Page, form: type[Form], index: str) -> Form:
    try:
        return msgspec.json.decode(page.body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IndexAnswerError(f"index {index} answers with a page that is none: {error}") from None


def _file(one: _File, page: URL, index: str) -> ProjectFile:
    yanked = one.yanked if isinstance(one.yanked, str) else ("" if one.yanked else None)
    metadata = one.core_metadata if isinstance(one.core_metadata, dict) else {}
    if one.size is not None and one.size < 0:
        raise IndexAnswerError(f"index {index} answers with a file of {one.size} bytes")
    return ProjectFile(
        filename=checked_filename(one.filename, index),
        url=absolute(page, one.url, index),
        sha256=checked_sha256(one.hashes.get("sha256"), index),
        size=one.size,
        requires_python=None if one.requires_python is None else plain(one.requires_python, index, MAX_SPECIFIER),
        yanked=None if yanked is None else plain(yanked, index),
        metadata_sha256=checked_sha256(metadata.get("sha256"), index),
        attestations=None if one.attestations is None else _attestations(one.attestations, page, index),
    )


def _attestations(one: _Attestations, page: URL, index: str) -> OfferedAttestations:
    return OfferedAttestations(absolute(page, one.url, index), checked_sha256(one.hashes.get("sha256"), index))
