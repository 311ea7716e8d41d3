"""A real index server, in its own process, over a folder of signed wheels: from a name to a verified release."""

import hashlib
import http.server
import threading
from functools import partial

import pytest
import supply_wheels as wheels
from index_servers import indexes, pypiserver
from yarl import URL

from host.errors import BusbarError
from host.supply.index.core_metadata import check_metadata
from host.supply.index.errors import BadOriginError, ReleaseNotFoundError
from host.supply.index.findings import Installed
from host.supply.index.index_source import IndexSource, origin_of
from host.supply.index.requirements import parse_requirement
from host.supply.trust.verification import Purpose, verify_release
from host.supply.wheel.reader import read_wheel


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "packages"
    folder.mkdir()
    (folder / wheels.NAME).write_bytes(wheels.good())
    (folder / "acme_demo-0.9-py3-none-any.whl").write_bytes(b"older")
    (folder / "acme_demo-2.0rc1-py3-none-any.whl").write_bytes(b"not yet")
    (folder / "acme_demo-3.0-cp27-cp27m-win32.whl").write_bytes(b"for others")
    (folder / "acme_demo-4.0.tar.gz").write_bytes(b"source")
    (folder / "other_plugin-1.0-py3-none-any.whl").write_bytes(b"other")
    return folder


@pytest.fixture(scope="module")
def server(packages):
    with pypiserver(packages, "--disable-fallback", "--hash-algo", "sha256") as url:
        yield url


@pytest.fixture
def beside(tmp_path):
    """Another host, which has files of a folder: attestations, as pypiserver itself serves none."""
    folder = tmp_path / "beside"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        serving = threading.Thread(target=httpd.serve_forever)
        serving.start()
        yield folder, URL(f"http://127.0.0.1:{httpd.server_address[1]}/")
        httpd.shutdown()
        serving.join()


async def test_a_plugin_is_found_by_name_and_arrives_as_it_was_signed(server, beside, tmp_path, acme):
    folder, url = beside
    wheel = wheels.good()
    (folder / f"{wheels.NAME}.intoto.jsonl").write_bytes(acme.sign(wheel))
    source = IndexSource(
        "main", server, attestations=f"{url}{{filename}}.intoto.jsonl", file_origins=frozenset({origin_of(url)})
    )
    async with indexes(source) as client:
        candidate = await client.find(parse_requirement("acme-demo"))
        release = await client.fetch(candidate, tmp_path, 2**20, attested=True)

    assert (candidate.version, candidate.index) == ("1.0.0", "main")
    assert candidate.file.sha256 == hashlib.sha256(wheel).hexdigest()
    received = release.wheel.read_bytes()
    assert received == wheel
    verified = verify_release(
        sha256=hashlib.sha256(received).hexdigest(),
        filename=release.filename,
        attestations=release.attestations,
        trust=acme.trust,
        now=wheels.NOW,
        purpose=Purpose.INSTALL,
    )
    assert verified.statement.plugin == "acme-demo"
    check_metadata(release.metadata_sha256, read_wheel(received, release.filename, wheels.PROVIDED))


async def test_without_attestations_anywhere_the_release_comes_unsigned_and_so_refused_later(server, tmp_path):
    async with indexes(IndexSource("main", server)) as client:
        release = await client.fetch(await client.find(parse_requirement("acme-demo")), tmp_path, 2**20)
    assert release.attestations == b""


@pytest.mark.parametrize(
    ("requirement", "version"),
    [("acme-demo<1", "0.9"), ("acme-demo==2.0rc1", "2.0rc1"), ("Acme.Demo~=1.0", "1.0.0"), ("other_plugin", "1.0")],
)
async def test_versions_are_chosen_from_what_the_server_lists(server, requirement, version):
    async with indexes(IndexSource("main", server)) as client:
        assert (await client.find(parse_requirement(requirement))).version == version


@pytest.mark.parametrize("requirement", ["acme-demo>=3", "acme-nothing"])
async def test_what_the_server_does_not_have_is_not_found(server, requirement):
    async with indexes(IndexSource("main", server)) as client:
        with pytest.raises(ReleaseNotFoundError):
            await client.find(parse_requirement(requirement))


async def test_a_server_that_sends_those_who_ask_for_more_to_a_public_index_is_not_followed_there(packages):
    with pypiserver(packages, "--fallback-url", "http://public.example.org/index/") as url:
        async with indexes(IndexSource("main", url)) as client:
            assert (await client.find(parse_requirement("acme-demo"))).version == "1.0.0"
            with pytest.raises(BadOriginError, match="public.example.org"):
                await client.find(parse_requirement("acme-nothing"))


async def test_the_server_is_searched_and_says_what_is_new(server):
    async with indexes(IndexSource("main", server)) as client:
        found = await client.search("demo")
        assert [(one.plugin, one.version) for one in found.found] == [("acme-demo", "1.0.0")]
        standing = await client.latest(
            [Installed("acme-demo", "0.9", "main"), Installed("other-plugin", "1.0", "main")]
        )
    assert [(one.latest, one.outdated) for one in standing] == [("1.0.0", True), ("1.0", False)]


async def test_a_wheel_that_is_too_large_for_this_host_leaves_nothing(server, tmp_path):
    async with indexes(IndexSource("main", server)) as client:
        with pytest.raises(BusbarError) as refused:
            await client.fetch(await client.find(parse_requirement("acme-demo")), tmp_path, 100)
    assert refused.value.word == "release_size_limit"
    assert list(tmp_path.iterdir()) == []
