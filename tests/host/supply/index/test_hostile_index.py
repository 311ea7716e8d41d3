"""An index that attacks: each attack ends in bounded time and space with its own code, and leaves no file."""

import asyncio
import gzip
import json
import time

import pytest
from aiohttp import web
from index_servers import JSON, IndexServer, indexes
from yarl import URL

from host.errors import BusbarError, ErrorKind
from host.supply.index.index_source import origin_of
from host.supply.index.requirements import parse_requirement
from host.supply.index.transport import TransportLimits

DEMO = parse_requirement("acme-demo")
PAGE = "/simple/acme-demo/"
NAME = "acme_demo-1.0-py3-none-any.whl"
FILE = f"/files/{NAME}"
MAX = 100_000
USUAL = TransportLimits()
IN_ALL = TransportLimits(page=0.5, file=0.5)
BETWEEN = TransportLimits(silence=0.3)


@pytest.fixture
async def index():
    async with IndexServer() as server:
        server.has("1.0")
        yield server


@pytest.fixture
async def elsewhere():
    async with IndexServer() as server:
        server.has("1.0")
        yield server


async def take(index, folder, limits=USUAL, **changes):
    """Find the plugin and fetch it."""
    async with indexes(index.source(**changes), limits=limits) as client:
        return await client.fetch(await client.find(DEMO), folder, MAX)


async def refused(index, folder, limits=USUAL, **changes):
    with pytest.raises(BusbarError) as error:
        await take(index, folder, limits, **changes)
    assert list(folder.iterdir()) == []
    assert error.value.message.isprintable()
    return error.value


def page(found=None, **changes):
    whole = {"meta": {"api-version": "1.0"}, "name": "acme-demo", "files": [], **changes}
    return {"body": json.dumps(whole if found is None else found).encode(), "content_type": JSON}


def with_file(**entry):
    return page(files=[{"filename": NAME, "url": FILE, "hashes": {}, **entry}])


# More than anyone wants


def endless(chunk=b"x" * 65536, wait=0.0, status=200, headers=None):
    async def handler(request):
        response = web.StreamResponse(status=status, headers={"Content-Type": JSON, **(headers or {})})
        await response.prepare(request)
        try:
            while True:
                await response.write(chunk)
                await asyncio.sleep(wait)
        except ConnectionError:
            return response

    return handler


def silent():
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": JSON})
        await response.prepare(request)
        await response.write(b"{")
        await asyncio.sleep(60)
        return response

    return handler


def mute():
    async def handler(request):
        await asyncio.sleep(60)
        return web.Response()

    return handler


def broken_off():
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": JSON, "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x")
        request.transport.close()
        return response

    return handler


FLOODS = [
    ("a page without end", PAGE, endless(b" " * 2**20), USUAL, "release_size_limit"),
    ("a wheel without end", FILE, endless(), USUAL, "release_size_limit"),
    ("attestations without end", FILE + ".intoto.jsonl", endless(b" " * 2**20), USUAL, "release_size_limit"),
    ("an error without end", PAGE, endless(status=500), USUAL, "index_unavailable"),
    ("a redirect without end", FILE, endless(status=302, headers={"Location": FILE}), USUAL, "index_answer_invalid"),
    ("a page that drips", PAGE, endless(b" ", wait=0.02), IN_ALL, "release_timeout"),
    ("a wheel that drips", FILE, endless(b"x", wait=0.02), IN_ALL, "release_timeout"),
    ("a page that stops", PAGE, silent(), BETWEEN, "release_timeout"),
    ("a wheel that stops", FILE, silent(), BETWEEN, "release_timeout"),
    ("a page that never begins", PAGE, mute(), BETWEEN, "release_timeout"),
    ("a page that breaks off", PAGE, broken_off(), USUAL, "index_unavailable"),
    ("a wheel that breaks off", FILE, broken_off(), USUAL, "index_unavailable"),
]


@pytest.mark.parametrize(
    ("path", "handler", "limits", "code"), [case[1:] for case in FLOODS], ids=[case[0] for case in FLOODS]
)
async def test_what_does_not_end_is_ended_here(index, tmp_path, path, handler, limits, code):
    index.answers[path] = handler
    error = await refused(index, tmp_path, limits)
    assert error.word == code
    assert (error.kind is ErrorKind.TIMEOUT) == (code == "release_timeout")


async def test_a_wheel_that_says_beforehand_that_it_is_too_large_is_not_asked_for(index, tmp_path):
    index.answers_with(PAGE, **with_file(size=MAX + 1))
    assert (await refused(index, tmp_path)).word == "release_size_limit"
    assert FILE not in index.paths


async def test_a_wheel_with_more_bytes_than_the_index_said_is_cut_there(index, tmp_path):
    index.answers_with(PAGE, **with_file(size=3))
    assert (await refused(index, tmp_path)).word == "release_size_limit"


async def test_an_answer_that_announces_too_much_is_not_read(index, tmp_path):
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Length": str(2**40)})
        await response.prepare(request)
        await asyncio.sleep(60)
        return response

    index.answers[FILE] = handler
    started = time.monotonic()
    assert (await refused(index, tmp_path)).word == "release_size_limit"
    assert time.monotonic() - started < USUAL.silence


BOMB = gzip.compress(b" " * 200 * 2**20)
PACKED = gzip.compress(json.dumps({"meta": {"api-version": "1.0"}, "name": "acme-demo", "files": []}).encode())

GZIP = [
    ("a bomb", BOMB, "gzip", "release_size_limit"),
    ("two encodings", PACKED, "gzip, gzip", "index_answer_invalid"),
    ("an encoding that was not asked for", PACKED, "br", "index_answer_invalid"),
    ("no gzip", b"{}" * 100, "gzip", "index_answer_invalid"),
    ("gzip that is cut", PACKED[:-9], "gzip", "index_unavailable"),
]


@pytest.mark.parametrize(("body", "encoding", "code"), [case[1:] for case in GZIP], ids=[case[0] for case in GZIP])
async def test_what_is_packed_is_counted_as_it_comes_out(index, tmp_path, body, encoding, code):
    index.answers_with(PAGE, body=body, headers={"Content-Type": JSON, "Content-Encoding": encoding})
    assert (await refused(index, tmp_path)).word == code


async def test_an_honest_page_may_be_packed(index, tmp_path):
    body = gzip.compress(with_file()["body"])
    index.answers_with(PAGE, body=body, headers={"Content-Type": JSON, "Content-Encoding": "gzip"})
    assert (await take(index, tmp_path)).filename == NAME


async def test_a_wheel_that_is_packed_for_its_way_is_a_wheel_like_others(index, tmp_path):
    index.answers_with(FILE, body=gzip.compress(b"x" * 10 * MAX), headers={"Content-Encoding": "gzip"})
    assert (await refused(index, tmp_path)).word == "release_size_limit"


# To other places


PLACES = ["file:///etc/passwd", "http://127.0.0.1:1/x.whl", "https://files.example.org/x.whl", "//evil.example.org/x"]
PLACES += ["data:,x", "ftp://evil.example.org/", "http://[::1", "http://a b/", "gopher://x/"]
PLACES += ["http://\u202eevil/", "x" * 5000]


@pytest.mark.parametrize("place", PLACES)
async def test_a_file_elsewhere_is_not_fetched(index, tmp_path, place):
    index.answers_with(PAGE, **with_file(url=place))
    assert (await refused(index, tmp_path)).word == "release_bad_origin"


@pytest.mark.parametrize("path", [PAGE, FILE, FILE + ".intoto.jsonl"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_not_followed(index, elsewhere, tmp_path, path, status):
    index.answers_with(path, status=status, headers={"Location": str(elsewhere.url)})
    error = await refused(index, tmp_path)
    assert error.word == "release_bad_origin"
    assert "file_origins" in error.message
    assert elsewhere.asked == []


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://[", "data:,x"])
async def test_a_redirect_to_no_web_address_is_not_followed(index, tmp_path, place):
    index.answers_with(FILE, status=302, headers={"Location": place})
    assert (await refused(index, tmp_path)).word == "release_bad_origin"


async def test_the_same_host_on_another_port_or_with_a_user_is_another_origin(index, tmp_path):
    for place in (f"http://127.0.0.1:{index.url.port + 1}/x", f"http://user:pass@127.0.0.1:{index.url.port}/x"):
        index.answers_with(PAGE, **with_file(url=place))
        assert (await refused(index, tmp_path)).word == "release_bad_origin"


async def test_a_redirect_within_the_index_is_followed_and_not_for_ever(index, tmp_path):
    index.answers_with("/simple/old/", status=301, headers={"Location": PAGE})
    index.answers_with(FILE, status=302, headers={"Location": "/moved"})
    index.bytes["/moved"] = b"a wheel"
    assert (await take(index, tmp_path)).wheel.read_bytes() == b"a wheel"
    (tmp_path / NAME).unlink()
    index.answers_with("/moved", status=302, headers={"Location": "/moved"})
    assert (await refused(index, tmp_path)).word == "index_answer_invalid"
    assert index.paths.count("/moved") < 10


async def test_a_token_is_not_sent_after_a_redirect_to_an_origin_of_files(index, elsewhere, tmp_path):
    target = str(elsewhere.url.join(URL(FILE)))
    index.answers_with(FILE, status=302, headers={"Location": target})
    origins = frozenset({origin_of(elsewhere.url)})
    assert await take(index, tmp_path, authorization="Bearer secret", file_origins=origins)
    assert [request.headers.get("Authorization") for request in elsewhere.asked] == [None]


async def test_addresses_are_seen_from_where_the_page_was_in_the_end(index, tmp_path):
    index.answers_with(PAGE, status=301, headers={"Location": "/deep/er/acme-demo/"})
    index.answers_with("/deep/er/acme-demo/", **with_file(url="../file.whl"))
    index.bytes["/deep/er/file.whl"] = b"x"
    assert (await take(index, tmp_path)).url.endswith("/deep/er/file.whl")


# Pages that are none


DIGEST = "a" * 64
WRONG = [
    ("no JSON", {"body": b"<html>", "content_type": JSON}),
    ("JSON that nests for ever", {"body": b'{"x":' + b"[" * 100_000, "content_type": JSON}),
    ("no UTF-8", {"body": b'{"meta": {"api-version": "\xff"}}', "content_type": JSON}),
    ("JSON of another kind", page([])),
    ("no meta", page({"name": "acme-demo", "files": []})),
    ("another major version", page(meta={"api-version": "2.0"})),
    ("no version at all", page(meta={"api-version": ""})),
    ("another project's page", page(name="acme-other")),
    ("no files", page({"meta": {"api-version": "1.0"}, "name": "acme-demo"})),
    ("files that are none", page(files=["x"])),
    ("more files than anyone has", page(files=[{"filename": "x", "url": "x"}] * 20_001)),
    ("another content type", {"body": page()["body"], "content_type": "application/json"}),
    ("the next API", {"body": page()["body"], "content_type": "application/vnd.pypi.simple.v2+json"}),
    ("a name with control characters", with_file(filename="acme_demo-1.0\x1b[2J-py3-none-any.whl")),
    ("a name that turns the text around", with_file(filename="acme_demo-1.0-1\u202e-py3-none-any.whl")),
    ("a name that is a path", with_file(filename="acme_demo-1.0-1/../../x-py3-none-any.whl")),
    ("a name that is a path in its tags", with_file(filename="acme_demo-1.0-py3-none-any./../x.whl")),
    ("a name that is a path elsewhere", with_file(filename="acme_demo-1.0-1\\x-py3-none-any.whl")),
    ("a name that is too long", with_file(filename="acme_demo-1.0-1" + "x" * 300 + "-py3-none-any.whl")),
    ("a reason with control characters", with_file(yanked="\x07")),
    ("a reason without end", with_file(yanked="x" * 2001)),
    ("a status with control characters", page(**{"project-status": {"status": "\x1b"}})),
    ("a Python with control characters", with_file(**{"requires-python": ">=3\n"})),
    (
        "one name for two files",
        page(files=[{"filename": NAME, "url": FILE, "size": size} for size in (1, 2)]),
    ),
    ("a negative size", with_file(size=-1)),
    ("a size that is none", with_file(size=1e300)),
    ("a hash that is none", with_file(hashes={"sha256": "x"})),
    ("a hash in capitals", with_file(hashes={"sha256": DIGEST.upper()})),
    ("hashes that are none", with_file(hashes={"sha256": 5})),
    ("attestations that are none", with_file(_attestations=True)),
    ("attestations without a place", with_file(_attestations={"hashes": {}})),
]


@pytest.mark.parametrize("answer", [case[1] for case in WRONG], ids=[case[0] for case in WRONG])
async def test_a_page_that_is_none_is_refused_as_a_whole(index, tmp_path, answer):
    index.answers_with(PAGE, **answer)
    error = await refused(index, tmp_path)
    assert (error.word, error.kind) == ("index_answer_invalid", ErrorKind.UPSTREAM)


async def test_a_file_that_the_index_names_and_does_not_have_is_its_failure(index, tmp_path):
    del index.bytes[FILE]
    assert (await refused(index, tmp_path)).word == "index_answer_invalid"


async def test_a_plugin_in_quarantine_is_not_installed_whatever_files_there_are(index, tmp_path):
    beside = {"project-status": {"status": "quarantined", "reason": "malware"}}
    inside = {"meta": {"api-version": "1.4", "project-status": "quarantined", "project-status-reason": "malware"}}
    for status in (beside, inside):
        index.answers_with(PAGE, **page(files=[{"filename": NAME, "url": FILE}], **status))
        error = await refused(index, tmp_path)
        assert error.word == "release_quarantined_by_index"
        assert "malware" in error.message


async def test_names_in_a_list_that_are_none_are_left_out_of_a_search(index):
    names = ["acme-demo", "Acme_Demo", "acme\x1b[2J", "../acme", "acme" * 100, "", "acme demo"]
    found = {"meta": {"api-version": "1.0"}, "projects": [{"name": name} for name in names]}
    index.answers_with("/simple/", **page(found))
    async with indexes(index.source()) as client:
        assert [one.plugin for one in (await client.search("acme")).found] == ["acme-demo"]


async def test_a_list_without_end_is_a_problem_of_the_search(index):
    index.answers["/simple/"] = endless(b" " * 2**20)
    async with indexes(index.source()) as client:
        assert [one.code for one in (await client.search("acme")).problems] == ["release_size_limit"]
