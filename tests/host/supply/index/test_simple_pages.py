"""Pages of the simple repository API in both of their forms: what is read of them, and what is not."""

import contextlib
import json
import time

import pytest
from index_servers import JSON
from yarl import URL

from host.supply.errors import ReleaseTooLargeError, SupplyError
from host.supply.index.errors import IndexAnswerError
from host.supply.index.project_page import OfferedAttestations, Project, ProjectFile
from host.supply.index.simple_api import parse_names, parse_project
from host.supply.index.transport import Page

BASE = URL("https://plugins.example.org/index/acme-demo/")
NAME = "acme_demo-1.0-py3-none-any.whl"
SHA = "a" * 64
SHA2 = "b" * 64


def json_page(**found):
    whole = {"meta": {"api-version": "1.1"}, "name": "Acme_Demo", "files": [], **found}
    return Page(BASE, JSON, json.dumps(whole).encode())


def html_page(text, kind="text/html"):
    return Page(BASE, kind, text.encode())


def project(page):
    return parse_project(page, "acme-demo", "main")


# The same in both forms

FILE = ProjectFile(NAME, URL(f"https://plugins.example.org/files/{NAME}"))

BOTH = [
    ("a plain file", {}, "", {}),
    ("with a hash", {"hashes": {"sha256": SHA}}, f"#sha256={SHA}", {"sha256": SHA}),
    ("with a hash that is too weak to count", {"hashes": {"md5": "c" * 32}}, f"#md5={'c' * 32}", {}),
    (
        "for some Pythons",
        {"requires-python": ">=3.11"},
        '" data-requires-python="&gt;=3.11',
        {"requires_python": ">=3.11"},
    ),
    ("yanked", {"yanked": True}, '" data-yanked="', {"yanked": ""}),
    (
        "yanked with a reason",
        {"yanked": "does not start"},
        '" data-yanked="does not start',
        {"yanked": "does not start"},
    ),
    (
        "with metadata",
        {"core-metadata": {"sha256": SHA2}},
        f'" data-core-metadata="sha256={SHA2}',
        {"metadata_sha256": SHA2},
    ),
    ("with metadata without a hash", {"core-metadata": True}, '" data-core-metadata="true', {}),
]


@pytest.mark.parametrize(("entry", "link", "expected"), [case[1:] for case in BOTH], ids=[case[0] for case in BOTH])
def test_a_file_is_the_same_in_json_and_in_html(entry, link, expected):
    wanted = Project("acme-demo", (ProjectFile(FILE.filename, FILE.url, **expected),))
    assert project(json_page(files=[{"filename": NAME, "url": f"../../files/{NAME}", "hashes": {}, **entry}])) == wanted
    assert project(html_page(f'<!DOCTYPE html><a href="../../files/{NAME}{link}">{NAME}</a>')) == wanted


@pytest.mark.parametrize("status", ["active", "archived", "quarantined", "deprecated"])
def test_the_status_of_a_project_is_read_wherever_indexes_have_it(status):
    wanted = Project("acme-demo", (), status, "because")
    meta = {"api-version": "1.4", "project-status": status, "project-status-reason": "because"}
    assert project(json_page(meta=meta)) == wanted
    assert project(json_page(**{"project-status": {"status": status, "reason": "because"}})) == wanted
    named = f'<meta name="pypi:project-status" content="{status}">'
    assert project(html_page(named + '<meta name="pypi:project-status-reason" content="because">')) == wanted


def test_a_list_of_projects_is_the_same_in_json_and_in_html():
    found = {"meta": {"api-version": "1.0"}, "projects": [{"name": "B_b"}, {"name": "a"}, {"name": "b.b"}]}
    assert parse_names(Page(BASE, JSON, json.dumps(found).encode()), "main") == ("a", "b-b")
    assert parse_names(html_page('<a href="x/"> B_b\n</a><br><a>a</a><A HREF="/y">b.b</A> c'), "main") == ("a", "b-b")


# JSON alone


def test_what_the_format_does_not_know_is_ignored():
    entry = {"filename": NAME, "url": str(FILE.url), "hashes": {"blake3": "x"}, "gpg-sig": True, "_own": {"x": [1]}}
    page = json_page(files=[entry], versions=["1.0"], alternate={"x": None})
    assert project(page).files == (FILE,)


def test_attestations_that_a_file_names_are_read_with_their_hash():
    entry = {"filename": NAME, "url": str(FILE.url), "size": 7}
    page = json_page(files=[{**entry, "_attestations": {"url": "a.jsonl", "hashes": {"sha256": SHA}}}])
    offered = OfferedAttestations(BASE / "a.jsonl", SHA)
    assert project(page).files == (ProjectFile(NAME, FILE.url, size=7, attestations=offered),)


# HTML alone


def test_links_are_seen_from_the_base_that_the_page_names():
    page = html_page(f'<base href="https://files.example.org/a/"><base href="/no/"><a href="{NAME}">x</a>')
    assert project(page).files[0].url == URL(f"https://files.example.org/a/{NAME}")


def test_a_name_is_decoded_once_and_no_more():
    page = html_page('<a href="acme_demo-1.0%2Bx-py3-none-any.whl"></a><a href="b%252F..%252Fx.whl"></a>')
    assert [file.filename for file in project(page).files] == ["acme_demo-1.0+x-py3-none-any.whl", "b%2F..%2Fx.whl"]


def test_comments_styles_and_links_to_nowhere_are_no_files():
    page = html_page(
        f'<!doctype html>\n<!-- <a href="x.whl"> --><style>a > b</style><a name="top">x</a><a href="{NAME}">y</a>'
    )
    assert [file.filename for file in project(page).files] == [NAME]


def test_of_an_attribute_that_stands_twice_the_first_counts():
    assert [file.filename for file in project(html_page('<a href="a.whl" href="b.whl">x</a>')).files] == ["a.whl"]


def test_a_file_that_stands_twice_is_one_file():
    assert len(project(html_page(f'<a href="{NAME}">x</a>' * 2)).files) == 1


WRONG_HTML = [
    ("a path for a name", '<a href="x%2F..%2Fy.whl">x</a>'),
    ("control characters in a name", '<a href="x%1B.whl">x</a>'),
    ("control characters in a reason", '<a href="x.whl" data-yanked="\x07">x</a>'),
    ("two files of one name", '<a href="a/x.whl">x</a><a href="b/x.whl">x</a>'),
    ("a hash that is none", '<a href="x.whl#sha256=zz">x</a>'),
    ("a hash of metadata that is none", '<a href="x.whl" data-core-metadata="sha256=zz">x</a>'),
    ("the next API", '<meta name="pypi:repository-version" content="2.0">'),
    ("control characters in the status", '<meta name="pypi:project-status" content="&#x202e;">'),
    ("a comment that does not end", "<!-- <a>"),
    ("a comment in a comment", "<!-<!-- -->- <a>"),
    ("a tag that does not end", '<a href="x.whl"'),
    ("a tag in a tag", "<a <b>"),
    ("a tag that is very long", "<a " + "x" * 5000 + ">"),
    ("another declaration", "<![CDATA[ x ]]>"),
    ("two doctypes", "<!doctype html><!doctype html>"),
    ("an instruction", "<?php x ?>"),
    ("more links than anyone has", '<a href="x">' * 20_001),
]


@pytest.mark.parametrize("text", [case[1] for case in WRONG_HTML], ids=[case[0] for case in WRONG_HTML])
def test_html_that_is_malformed_is_refused_as_a_whole(text):
    with pytest.raises(IndexAnswerError) as refused:
        project(html_page(text))
    assert refused.value.message.isprintable()


def test_html_that_is_no_utf_8_is_refused():
    with pytest.raises(IndexAnswerError, match="not UTF-8"):
        project(Page(BASE, "text/html", b"\xff"))


def test_html_is_read_up_to_a_bound_only():
    with pytest.raises(ReleaseTooLargeError):
        project(html_page(" " * (4 * 2**20 + 1)))


FOR_EVER = [
    "<!--",
    "<!-->",
    "</a ",
    "<a x='",
    '<a x=">',
    "<a/",
    "<![CDATA[",
    "<!x ",
    "<?x",
    "&#",
    "<a>x<b>",
    "<script>x</a>",
]


@pytest.mark.parametrize("piece", FOR_EVER)
def test_no_html_takes_longer_than_its_length(piece):
    text = piece * (2**20 // len(piece))
    started = time.process_time()
    with contextlib.suppress(SupplyError):
        parse_names(html_page(text), "main")
    assert time.process_time() - started < 10  # a parser without a guard takes minutes on some of these
