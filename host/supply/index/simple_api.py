"""The simple repository API: what to ask for, and which reader an answer is for.

All functions here compute; callers run them in a thread, for pages may be large.
"""

from __future__ import annotations

from typing import Final

from host.supply.index import simple_html, simple_json
from host.supply.index.errors import IndexAnswerError
from host.supply.index.project_page import Project, normalised
from host.supply.index.transport import Page

ACCEPT: Final = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
PAGE_BYTES: Final = 16 * 2**20
LIST_BYTES: Final = 32 * 2**20
_JSON: Final = "application/vnd.pypi.simple.v1+json"
_HTML: Final = frozenset({"application/vnd.pypi.simple.v1+html", "text/html"})


def parse_project(page: Page, name: str, index: str) -> Project:
    """The page of the project that was asked for as `name`, which is normalised.

    Raises:
        IndexAnswerError: it is no such page; the sentence says where.
        BadOriginError: an address in it is none.
    """
    return simple_html.project(page, name, index) if _is_html(page, index) else simple_json.project(page, name, index)


def parse_names(page: Page, index: str) -> tuple[str, ...]:
    """The projects of an index, normalised, each once, sorted; names that are none are left out.

    Raises:
        IndexAnswerError: it is no such page.
    """
    return normalised(simple_html.names(page, index) if _is_html(page, index) else simple_json.names(page, index))


def _is_html(page: Page, index: str) -> bool:
    if page.content_type not in {_JSON, *_HTML}:
        raise IndexAnswerError(
            f"index {index} answers with {ascii(page.content_type)[:80]}: is its address that of the simple API?"
        )
    return page.content_type != _JSON
