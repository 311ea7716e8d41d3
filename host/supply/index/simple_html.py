"""Pages of an index in HTML (PEP 503, 592, 658 and 792), for indexes that do not speak JSON.

Python's own parser takes time that grows with the square of some malformed documents. So what could do that is looked
for first, in time that grows with the document: comments are taken out, and a page with any other declaration than its
doctype, or with a tag that does not end soon, is refused.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final
from urllib.parse import unquote

from yarl import URL

from host.supply.errors import ReleaseTooLargeError
from host.supply.index.errors import IndexAnswerError
from host.supply.index.project_page import (
    ACTIVE,
    MAX_FILENAME,
    MAX_SPECIFIER,
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

MAX_BYTES: Final = 4 * 2**20
MAX_TAG: Final = 4096
_DOCTYPE: Final = re.compile(r"\A\s*<!doctype\s[^<>]{1,200}>", re.IGNORECASE)
_TAG: Final = re.compile(r"<([!?])?[^<>]*(>)?")


def project(page: Page, name: str, index: str) -> Project:
    """The page of a project.

    Raises:
        IndexAnswerError: it is none.
        BadOriginError: an address in it is none.
    """
    links = _read(page, index)
    check_count(len(links.anchors), index)
    base = page.url if links.base is None else absolute(page.url, links.base, index)
    found = (_file(attributes, base, index) for attributes in links.anchors if "href" in attributes)
    return Project(
        name=name,
        files=each_once(found, index),
        status=plain(links.meta.get("pypi:project-status", ACTIVE), index),
        reason=plain(links.meta.get("pypi:project-status-reason", ""), index),
    )


def names(page: Page, index: str) -> tuple[str, ...]:
    """The names of the projects, as they are written.

    Raises:
        IndexAnswerError: it is no list of projects.
    """
    return tuple(text.strip() for text in _read(page, index).texts)


class _Links(HTMLParser):
    """Collects the links of a page, their texts, its metas and its base."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.base: str | None = None
        self.meta: dict[str, str] = {}
        self.anchors: list[dict[str, str]] = []
        self.texts: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found: dict[str, str] = {}
        for attribute, value in attrs:
            found.setdefault(attribute, value or "")  # the first of a name counts, as in browsers
        if tag == "a":
            self.anchors.append(found)
            self.texts.append("")
            self._open = True
        elif tag == "meta" and "name" in found:
            self.meta.setdefault(found["name"].lower(), found.get("content", ""))
        elif tag == "base" and self.base is None and "href" in found:
            self.base = found["href"]

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "a"

    def handle_data(self, data: str) -> None:
        if self._open and len(self.texts[-1]) < MAX_FILENAME:  # no name is longer, and adding up takes its time
            self.texts[-1] += data[:MAX_FILENAME]


def _read(page: Page, index: str) -> _Links:
    if len(page.body) > MAX_BYTES:
        raise ReleaseTooLargeError("size_limit", f"index {index} answers with more than {MAX_BYTES} bytes of HTML")
    try:
        text = page.body.decode("utf-8")
    except UnicodeDecodeError:
        raise IndexAnswerError(f"index {index} answers with a page that is not UTF-8") from None
    links = _Links()
    links.feed(_without_comments(text, index))
    links.close()
    check_version(links.meta.get("pypi:repository-version", "1.0"), index)
    return links


def _without_comments(text: str, index: str) -> str:
    first, *rest = text.split("<!--")
    parts = [first]
    for piece in rest:
        _, end, after = piece.partition("-->")
        if not end:
            raise IndexAnswerError(f"index {index} answers with HTML whose comment does not end")
        parts.append(after)
    bare = _DOCTYPE.sub("", "".join(parts), count=1)
    for tag in _TAG.finditer(bare):
        if tag[1] or not tag[2] or len(tag[0]) > MAX_TAG:
            raise IndexAnswerError(f"index {index} answers with HTML that is malformed: {tag[0][:60]!a}")
    return bare


def _file(attributes: dict[str, str], page: URL, index: str) -> ProjectFile:
    href = attributes["href"].strip()
    address, _, fragment = href.partition("#")
    url = absolute(page, address, index)
    algorithm, _, digest = fragment.partition("=")
    # Decoded once and no more: what is decoded twice is another name than the one that was looked at.
    filename = unquote(url.raw_path.rpartition("/")[2], errors="replace")
    metadata = attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata", ""))
    return ProjectFile(
        filename=checked_filename(filename, index),
        url=url,
        sha256=checked_sha256(digest, index) if algorithm == "sha256" else None,
        requires_python=plain(attributes["data-requires-python"], index, MAX_SPECIFIER)
        if "data-requires-python" in attributes
        else None,
        yanked=plain(attributes["data-yanked"], index) if "data-yanked" in attributes else None,
        metadata_sha256=checked_sha256(metadata.removeprefix("sha256="), index)
        if metadata.startswith("sha256=")
        else None,
    )
