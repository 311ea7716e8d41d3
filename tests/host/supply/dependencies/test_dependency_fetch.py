"""Wheels of dependencies come from the operator's folders, or from where the operator allows, and by hash alone."""

import asyncio
import gzip
import hashlib
import os

import dependency_wheels as wheels
import pytest
from aiohttp import web
from yarl import URL

from host.errors import BusbarError
from host.supply.dependencies.fetch import DependencySources, below, fetch_wheels

GREETER = wheels.dependency()


class Origin:
    """A real server that answers what a test tells it to, and keeps what it was asked."""

    def __init__(self):
        self.answer = self.give
        self.asked = []

    async def handle(self, request):
        self.asked.append((request.host, request.raw_path, request.headers.get("Accept-Encoding")))
        return await self.answer(request)

    async def give(self, _request):
        return web.Response(body=GREETER.content)


@pytest.fixture
async def origin(aiohttp_server):
    found = Origin()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.handle)
    server = await aiohttp_server(app)
    found.url = str(server.make_url("/files/"))
    found.port = server.port
    return found


@pytest.fixture
def staging(tmp_path):
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def wheelhouse(tmp_path):
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    return folder


def sources(origin=None, *directories, **more):
    return DependencySources(directories, (origin.url,) if origin else (), **more)


def at(origin, path="greeter-1.0-py3-none-any.whl", **changes):
    return GREETER.locked(url=origin.url + path, **changes)


async def refused(wheel, staging, where):
    with pytest.raises(BusbarError) as error:
        await fetch_wheels([wheel], staging, where)
    return error.value


async def test_a_wheel_comes_from_a_folder_without_any_network(staging, wheelhouse, origin):
    GREETER.put_into(wheelhouse)
    await fetch_wheels([at(origin)], staging, sources(origin, wheelhouse.parent / "none", wheelhouse))
    assert (staging / GREETER.filename).read_bytes() == GREETER.content
    assert origin.asked == []


async def test_what_is_taken_from_a_folder_is_a_copy(staging, wheelhouse):
    source = GREETER.put_into(wheelhouse)
    await fetch_wheels([GREETER.locked()], staging, sources(None, wheelhouse))
    source.write_bytes(b"changed")
    assert (staging / GREETER.filename).read_bytes() == GREETER.content
    assert (staging / GREETER.filename).stat().st_nlink == 1


async def test_a_wheel_comes_from_where_its_lock_says_if_the_operator_allows_that(staging, origin):
    await fetch_wheels([at(origin)], staging, sources(origin))
    assert (staging / GREETER.filename).read_bytes() == GREETER.content
    assert [encoding for _, _, encoding in origin.asked] == ["identity"]


async def test_a_redirect_within_the_origin_is_followed(staging, origin):
    async def answer(request):
        if request.path.endswith("there"):
            return web.Response(body=GREETER.content)
        return web.Response(status=302, headers={"Location": "/files/there"})

    origin.answer = answer
    await fetch_wheels([at(origin)], staging, sources(origin))
    assert len(origin.asked) == 2


@pytest.mark.parametrize(
    "location",
    ["http://localhost:{port}/files/x", "/elsewhere/x", "file:///etc/passwd", "/files/../elsewhere", "//evil.example/"],
)
async def test_a_redirect_out_of_the_origin_is_refused(staging, origin, location):
    async def answer(_request):
        return web.Response(status=302, headers={"Location": location.format(port=origin.port)})

    origin.answer = answer
    error = await refused(at(origin), staging, sources(origin))
    assert (error.word, len(origin.asked)) == ("release_dependency_unavailable", 1)
    assert "another origin" in error.message


async def test_redirects_without_end_end(staging, origin):
    async def answer(_request):
        return web.Response(status=307, headers={"Location": "/files/again"})

    origin.answer = answer
    error = await refused(at(origin), staging, sources(origin))
    assert error.word == "release_dependency_unavailable"
    assert len(origin.asked) == 6


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://wheels.example.com/files/a.whl", True),
        ("https://wheels.example.com:443/files/deep/a.whl#sha256=1", True),
        ("http://wheels.example.com/files/a.whl", False),
        ("https://wheels.example.com:8443/files/a.whl", False),
        ("https://wheels.example.com.evil.example/files/a.whl", False),
        ("https://evil.example/wheels.example.com/files/a.whl", False),
        ("https://user:secret@wheels.example.com/files/a.whl", False),
        ("https://wheels.example.com@evil.example/files/a.whl", False),
        ("https://wheels.example.com/files-of-others/a.whl", False),
        ("https://wheels.example.com/files/../private/a.whl", False),
        ("https://wheels.example.com/files/%2e%2e/private/a.whl", False),
        ("https://wheels.example.com/files/%252e%252e/private/a.whl", False),
        ("https://wheels.example.com/files/..%5cprivate/a.whl", False),
        ("file:///files/a.whl", False),
        ("/files/a.whl", False),
    ],
)
def test_only_what_lies_below_an_origin_is_asked_for(url, allowed):
    assert below(URL(url), URL("https://wheels.example.com/files/")) is allowed
    assert below(URL(url), URL("https://wheels.example.com/files")) is allowed


@pytest.mark.parametrize("url", [None, "https://evil.example/x.whl", "http://[", "file:///etc/passwd"])
async def test_nobody_is_asked_whom_the_operator_does_not_allow(staging, origin, url):
    error = await refused(GREETER.locked(url=url), staging, sources(origin))
    assert (error.word, origin.asked) == ("release_dependency_unavailable", [])
    assert "supply.wheel_directories" in error.message


async def test_other_bytes_of_the_same_name_refuse_the_release(staging, wheelhouse, origin):
    (wheelhouse / GREETER.filename).write_bytes(GREETER.content + b"x")
    error = await refused(at(origin), staging, sources(origin, wheelhouse))
    assert error.word == "release_dependency_mismatch"
    assert str(wheelhouse) in error.message
    assert origin.asked == []  # not tried elsewhere: someone put it there


async def test_every_hash_of_the_lock_must_hold(staging, wheelhouse):
    GREETER.put_into(wheelhouse)
    right = hashlib.sha256(GREETER.content).hexdigest()
    wheel = GREETER.locked(hashes=(("sha256", right), ("sha512", "0" * 128)))
    assert (await refused(wheel, staging, sources(None, wheelhouse))).word == "release_dependency_mismatch"


async def test_what_is_packed_on_its_way_is_not_unpacked(staging, origin):
    async def answer(_request):
        packed = gzip.compress(bytes(10 * 2**20))
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    origin.answer = answer
    error = await refused(at(origin), staging, sources(origin, max_bytes=2**20))
    assert error.word == "release_dependency_mismatch"
    assert (staging / GREETER.filename).stat().st_size < 2**20


async def test_an_endless_answer_is_cut_off(staging, origin):
    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(64 * 1024))

    origin.answer = answer
    error = await refused(at(origin), staging, sources(origin, max_bytes=2**20))
    assert (error.word, error.kind.value) == ("release_dependency_size_limit", 413)
    assert (staging / GREETER.filename).stat().st_size <= 2**20


async def test_more_bytes_than_the_lock_says_are_cut_off(staging, wheelhouse):
    GREETER.put_into(wheelhouse)
    error = await refused(GREETER.locked(size=10), staging, sources(None, wheelhouse))
    assert error.word == "release_dependency_size_limit"


async def test_the_limit_is_one_for_all_wheels_together(staging, wheelhouse):
    two = [GREETER, wheels.dependency("other")]
    for one in two:
        one.put_into(wheelhouse)
    where = sources(None, wheelhouse, max_bytes=len(GREETER.content) + 10)
    with pytest.raises(BusbarError) as error:
        await fetch_wheels([one.locked() for one in two], staging, where)
    assert error.value.word == "release_dependency_size_limit"


async def test_a_server_that_drips_does_not_keep_an_install_for_ever(staging, origin):
    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"P")
        await asyncio.Event().wait()

    origin.answer = answer
    assert (await refused(at(origin), staging, sources(origin, seconds=0.3))).word == "release_dependency_timeout"


@pytest.mark.parametrize("status", [404, 500, 206])
async def test_what_is_no_whole_answer_is_none(staging, origin, status):
    async def answer(_request):
        return web.Response(status=status, body=GREETER.content)

    origin.answer = answer
    error = await refused(at(origin), staging, sources(origin))
    assert error.word == "release_dependency_unavailable"
    assert str(status) in error.message


async def test_an_answer_that_breaks_off_is_none(staging, origin):
    async def answer(request):
        response = web.StreamResponse(headers={"Content-Length": str(len(GREETER.content))})
        await response.prepare(request)
        await response.write(GREETER.content[:10])
        request.transport.close()
        return response

    origin.answer = answer
    assert (await refused(at(origin), staging, sources(origin))).word == "release_dependency_unavailable"


async def test_a_pipe_in_a_folder_of_wheels_is_no_wheel(staging, wheelhouse):
    os.mkfifo(wheelhouse / GREETER.filename)
    assert (
        await refused(GREETER.locked(), staging, sources(None, wheelhouse))
    ).word == "release_dependency_unavailable"
