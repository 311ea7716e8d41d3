"""The marketplace over HTTP and on the command line, in front of an index."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import typer
from aiohttp.test_utils import RawTestServer
from index_servers import IndexServer, indexes
from structlog.testing import capture_logs
from typer.testing import CliRunner

from host.api.app import Routes
from host.api.resources.marketplace import Marketplace
from host.cli import marketplace as commands
from host.identity.access import Role
from host.observe.metrics import RequestCounts
from host.supply.index.findings import Installed

VIEWER = SimpleNamespace(find=lambda secret: SimpleNamespace(role=Role.VIEWER, name="v") if secret == "v" else None)


@pytest.fixture
async def index():
    async with IndexServer() as server:
        server.has("1.0")
        server.has("1.1")
        server.has("1.0", plugin="acme-mail", yanked="loses \u2018mail\u2019")
        yield server


@pytest.fixture
def installed():
    return []


@pytest.fixture
async def host(index, installed):
    async with indexes(index.source()) as client:
        routes = Routes(Marketplace(client, lambda: installed).endpoints(), VIEWER, RequestCounts())
        async with RawTestServer(routes) as server:
            with capture_logs():  # a runner of commands takes for theirs what this process prints
                yield str(server.make_url("/")).rstrip("/")


@pytest.fixture
def busbar(host):
    """Runs a command against the host; its exit code and output."""
    app = typer.Typer()
    app.command()(commands.search)
    app.command()(commands.outdated)

    async def run(*arguments):
        environment = {"BUSBAR_URL": host, "BUSBAR_TOKEN": "v", "COLUMNS": "200"}
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
        assert done.exit_code == 0, done.output
        return done

    return run


async def test_a_search_shows_what_would_be_installed_and_what_is(busbar, installed):
    installed.append(Installed("acme-demo", "1.0", "main"))
    found = json.loads((await busbar("search", "acme", "--json")).stdout)
    assert found == {
        "plugins": [
            {"id": "acme-demo", "index": "main", "version": "1.1", "installed": "1.0"},
            {"id": "acme-mail", "index": "main", "version": None, "installed": None},
        ],
        "more": False,
        "problems": [],
    }
    shown = (await busbar("search", "demo")).stdout.splitlines()
    assert [line.split() for line in shown] == [
        ["ID", "VERSION", "INDEX", "INSTALLED"],
        ["acme-demo", "1.1", "main", "1.0"],
    ]


async def test_a_search_says_that_there_is_more_and_what_could_not_be_asked(busbar, index):
    assert "there is more" in (await busbar("search", "--limit", "1")).stderr
    assert "no index has such a plugin" in (await busbar("search", "nothing")).stdout
    index.answers_with("/simple/", status=500)
    assert "main: index main answers with status 500" in (await busbar("search", "acme")).stderr


async def test_outdated_shows_what_is_old_taken_back_or_cannot_be_known(busbar, installed):
    assert "as new as its index has it" in (await busbar("outdated")).stdout
    installed += [
        Installed("acme-demo", "1.0", "main"),
        Installed("acme-mail", "1.0", "main"),
        Installed("gone", "1.0", "other"),
    ]
    rows = json.loads((await busbar("outdated", "--json")).stdout)
    assert rows[0] == {
        "id": "acme-demo",
        "version": "1.0",
        "index": "main",
        "latest": "1.1",
        "outdated": True,
        "yanked": None,
        "quarantined": False,
        "problem": None,
    }
    assert (rows[1]["yanked"], rows[1]["problem"]["code"]) == ("loses \u2018mail\u2019", "release_not_found")
    assert rows[2]["problem"]["code"] == "index_not_configured"
    shown = (await busbar("outdated")).stdout
    assert "yanked: loses \u2018mail\u2019" in shown
    assert "gone comes from index other" in shown


async def test_outdated_shows_the_others_too_when_it_is_asked_for_all(busbar, installed):
    installed.append(Installed("acme-demo", "1.1", "main"))
    assert "acme-demo" not in (await busbar("outdated")).stdout
    assert "acme-demo" in (await busbar("outdated", "--all")).stdout


async def test_nobody_without_a_token_has_indexes_asked(host, index):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for path in ("", "/updates"):
            async with session.get(f"{host}/api/v1/marketplace{path}") as response:
                assert response.status == 401
    assert index.asked == []


@pytest.mark.parametrize("query", ["limit=0", "limit=51", "q=" + "x" * 201, "text=x"])
async def test_a_query_that_is_not_understood_is_refused(host, query):
    import aiohttp

    headers = {"Authorization": "Bearer v"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{host}/api/v1/marketplace?{query}") as response,
    ):
        assert (response.status, (await response.json())["code"]) == (400, "query_invalid")
