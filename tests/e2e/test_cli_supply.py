"""The command line over trust and releases, against one real daemon and a real index: from keys to rollbacks."""

import asyncio
import http.server
import json
import os
import pty
import re
import sqlite3
import subprocess
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import forked_command
import pytest
import supply_wheels
from dependency_wheels import lock, repacked
from index_servers import pypiserver
from supply_rig import files_of, record_of

from host.runtime.sdk_path import provided
from host.supply.trust.keys import PrivateKey
from host.supply.trust.signing import attestations_of, sign_wheel

GUIDE = (Path(__file__).parents[2] / "docs" / "administrator.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- try: (\w+) -->\n```sh\n(.*?)```", GUIDE, re.DOTALL))
QUIET = "from plugin_sdk import Plugin\n\n\nclass Demo(Plugin):\n    pass\n"
HIDDEN = "import base64\n" + QUIET + '\n\nexec(base64.b64decode("cGFzcw=="))\n'
BROKEN = QUIET.replace("pass", "async def start(self, context):\n        raise RuntimeError('no')")
GREEDY = b'[plugin]\nid = "hide"\ntitle = "Demo"\n\n[permissions]\npublish = ["hide.sold"]\n'
LOUD = "import subprocess\n" + QUIET + '\n    def run(self):\n        subprocess.run(["true"])\n'


class Maker:
    """A publisher: an id, a key, and the wheels that it signs with it."""

    def __init__(self, folder, publisher, plugins):
        self.folder = folder
        self.id = publisher
        self.plugins = plugins
        self.key = PrivateKey.new()

    @property
    def public(self):
        return str(self.key.public)

    @property
    def kid(self):
        return self.key.public.id

    def wheel(self, plugin, version="1.0.0", *, code=QUIET, sequence=1, folder=None, **files):
        """A signed wheel of a plugin; `files` are more of its files, by path."""
        files = files_of(plugin, version, code=code, **files)
        name, record = record_of(files)
        path = (folder or self.folder) / f"{plugin.replace('-', '_')}-{version}-py3-none-any.whl"
        path.write_bytes(supply_wheels.pack({**files, name: record}))
        self.sign(path, sequence)
        return path

    def sign(self, wheel, sequence=1):
        """One more line beside a wheel."""
        now = datetime.now(UTC)
        sign_wheel(wheel, self.key, publisher=self.id, sequence=sequence, issued_at=now, provided=provided())


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("makers")
    return lambda publisher, *plugins: Maker(folder, publisher, list(plugins))


@pytest.fixture(scope="module")
def grocers(maker):
    return maker("grocers", "shop")


@pytest.fixture(scope="module")
def acme(maker):
    """The publisher of the guide, whom nobody trusts yet."""
    return maker("acme", "acme")


@pytest.fixture(scope="module")
def index(tmp_path_factory, grocers, acme):
    """The settings of an index that has two releases of each plugin, and their attestations on another server."""
    folder = tmp_path_factory.mktemp("index")
    packages, beside = folder / "packages", folder / "beside"
    packages.mkdir()
    beside.mkdir()
    for publisher, plugin in ((grocers, "shop-till"), (acme, "acme-demo")):
        for sequence, version in enumerate(("1.0.0", "2.0.0"), 1):
            wheel = publisher.wheel(plugin, version, sequence=sequence, folder=packages)
            attestations_of(wheel).rename(beside / attestations_of(wheel).name)
    files = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=beside)
    )
    serving = threading.Thread(target=files.serve_forever)
    serving.start()
    place = f"http://127.0.0.1:{files.server_address[1]}/"
    with pypiserver(packages, "--disable-fallback", "--hash-algo", "sha256") as url:
        yield {
            "name": "main",
            "url": str(url),
            "attestations": place + "{filename}.intoto.jsonl",
            "file_origins": [place],
        }
    files.shutdown()
    serving.join()
    files.server_close()


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Where the daemon looks for what plugins depend on."""
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture(scope="module")
def host(tmp_path_factory, daemon_class, index, libraries, grocers):
    supply = {"indexes": json.dumps([index]), "wheel_directories": [str(libraries)]}
    one = daemon_class(tmp_path_factory.mktemp("host"), supply=supply).start()
    asyncio.run(one.trust(grocers.public, grocers.plugins, publisher="grocers"))
    yield one
    assert one.stop() == 0


@pytest.fixture
def busbar(host, tmp_path):
    """Runs the command; what it printed, and how it ended."""
    environment = {"BUSBAR_URL": host.url, "BUSBAR_TOKEN": host.token}
    return partial(forked_command.busbar, tmp_path, environment=environment)


@pytest.fixture
def said(busbar):
    """Runs the command, which must do what it is asked; what it printed for people."""

    def run(*arguments):
        done = busbar(*arguments)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    return run


@pytest.fixture
def answer(said):
    """Runs the command with --json; what it answered."""
    return lambda *arguments: json.loads(said(*arguments, "--json"))


@pytest.fixture
def trusted(host, maker, said):
    """Makes a publisher that the daemon trusts."""

    def make(publisher, *plugins):
        one = maker(publisher, *plugins)
        said(
            "publisher",
            "add",
            publisher,
            "--key",
            one.public,
            *(word for name in plugins for word in ("--plugin", name)),
        )
        return one

    return make


async def reaches(host, plugin, state):
    async def there():
        found = (await host.ask("GET", f"/api/v1/plugins/{plugin}"))[1]["data"]
        return found if found["state"] == state else None

    return await host.until(there)


def rows(printed):
    """The words of each line of a table, without its heading."""
    return [line.split() for line in printed.splitlines()[1:]]


# -- releases by name


async def test_a_plugin_comes_by_its_name_is_upgraded_and_taken_back(host, said, answer):
    assert rows(said("plugin", "search", "till")) == [["shop-till", "2.0.0", "main"]]
    assert said("plugin", "install", "shop-till<2", "--enable") == "shop-till 1.0.0 is running (started)\n"
    shown = said("plugin", "show", "shop-till")
    assert "from       index main\n" in shown
    assert "previous" not in shown
    assert rows(said("plugin", "outdated")) == [["shop-till", "1.0.0", "2.0.0", "main"]]

    upgraded = said("plugin", "upgrade", "shop-till")
    assert upgraded.startswith("shop-till 2.0.0 is running (started); on probation until ")
    assert upgraded.endswith("with 1.0.0 to go back to\n")
    shown = said("plugin", "show", "shop-till")
    assert "upgrade    1.0.0 to 2.0.0: probation\nprobation  2.0.0 until " in shown
    assert "previous   1.0.0: 'busbar plugin rollback shop-till' goes back to it" in shown
    assert said("plugin", "outdated") == "every plugin is as new as its index has it\n"

    back = answer("plugin", "rollback", "shop-till")
    assert (back["version"], back["previousVersion"], back["index"]) == ("1.0.0", "2.0.0", "main")
    assert answer("plugin", "upgrade", "shop-till", "shop-till==2.0.0", "--no-wait")["upgrade"]["toVersion"] == "2.0.0"


async def test_an_older_release_and_one_of_somebody_else_come_only_where_it_is_said(trusted, busbar, said):
    bakers, others = trusted("bakers", "bread"), trusted("others", "bread")
    new, old = bakers.wheel("bread", "2.0.0", sequence=2), bakers.wheel("bread", "1.0.0", sequence=1)
    assert said("plugin", "install", new) == "bread 2.0.0 is disabled (not enabled)\n"
    assert "release_rollback" in busbar("plugin", "upgrade", "bread", old).stderr
    assert "bread 1.0.0 is disabled" in said("plugin", "upgrade", "bread", old, "--allow-downgrade")
    foreign = others.wheel("bread", "3.0.0", sequence=3)
    assert "release_publisher_changed" in busbar("plugin", "install", foreign).stderr
    assert "bread 3.0.0 is disabled" in said("plugin", "install", foreign, "--allow-publisher-change")


async def test_an_upgrade_that_fails_or_asks_for_more_leaves_the_release_that_runs_and_says_why(trusted, busbar, said):
    tanners = trusted("tanners", "hide")
    said("plugin", "install", tanners.wheel("hide"), "--enable")
    broken = tanners.wheel("hide", "2.0.0", sequence=2, code=BROKEN)
    assert "upgrade_failed: hide stays at 1.0.0: " in busbar("plugin", "upgrade", "hide", broken).stderr
    assert "upgrade    1.0.0 to 2.0.0: failed: hide 2.0.0 did not start" in said("plugin", "show", "hide")
    greedy = tanners.wheel("hide", "3.0.0", sequence=3, **{"hide/plugin.toml": GREEDY})
    waits = said("plugin", "upgrade", "hide", greedy)
    assert waits.startswith(
        "hide 1.0.0 is running (started); 3.0.0 waits: it asks for permissions that are not granted"
    )
    assert "hide 3.0.0 is running" in said("plugin", "upgrade", "hide", greedy, "--grant")


async def test_a_plugin_whose_library_takes_the_place_of_the_hosts_starts_cold_and_says_so(trusted, libraries, said):
    newer = repacked("packaging", "26.99")
    newer.put_into(libraries)
    masons = trusted("masons", "stone")
    said("plugin", "install", masons.wheel("stone", **{"stone/pylock.toml": lock(newer)}), "--enable")
    assert "cold start it brings packaging 26.99 instead of " in said("plugin", "show", "stone")


REFUSED = [
    (["plugin", "install", "no-such.whl"], 1, "file_error", "no-such.whl: No such file or directory"),
    (["plugin", "install", "shop-nothing"], 1, "release_not_found", "no index has shop-nothing"),
    (["plugin", "install", "shop-till @ https://x/"], 1, "requirement_invalid", "names an address"),
    (["plugin", "upgrade", "nobody"], 1, "plugin_not_found", "Plugin nobody not found"),
    (["plugin", "rollback", "nobody"], 1, "plugin_not_found", "Plugin nobody not found"),
    (["plugin", "scan", "nobody"], 1, "plugin_not_found", "Plugin nobody not found"),
    (["plugin", "bill-of-materials", "nobody"], 1, "plugin_not_found", "Plugin nobody not found"),
    (["publisher", "add-key", "grocers", "ed25519:no"], 1, "key_refused", "key"),
    (["publisher", "retire", "grocers", "no"], 1, "key_not_found", "grocers has no key no"),
    (["publisher", "remove", "nobody"], 1, "publisher_not_found", "publisher nobody not found"),
    (["publisher", "policy", "shop", "--publisher", "nobody"], 1, "policy_refused", "there is no publisher 'nobody'"),
    (["publisher", "policy", "shop"], 1, "policy_not_found", "shop has no policy of its own"),
    (["publisher", "policy", "shop", "--drop"], 1, "policy_not_found", "there is no trust policy for 'shop'"),
    (["publisher", "policy", "--threshold", "2"], 2, "usage", "name the namespace"),
    (["publisher", "policy", "shop", "--drop", "--threshold", "2"], 2, "usage", "--drop takes no other option"),
    (["publisher", "keep", "--reason", "so"], 2, "usage", "name the release"),
    (["publisher", "keep", "0" * 64, "--drop"], 1, "policy_not_found", "is not kept"),
]


@pytest.mark.parametrize(("arguments", "status", "code", "message"), REFUSED)
def test_what_cannot_be_done_is_refused_with_a_code_and_a_sentence(busbar, arguments, status, code, message):
    done = busbar(*arguments, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["success"], found["code"]) == (status, False, code), found
    assert message in found["message"]


def test_a_host_that_is_not_there_is_told_from_one_that_refuses(host, tmp_path):
    environment = {"BUSBAR_URL": "http://127.0.0.1:1", "BUSBAR_TOKEN": host.token}
    done = forked_command.busbar(tmp_path, "publisher", "confirm", environment=environment)
    assert (done.returncode, done.stderr.startswith("no_daemon: ")) == (3, True)


# -- the scan, and what is in a release


async def test_a_release_with_code_that_hides_is_refused_and_the_scan_of_another_says_what_it_found(
    host, trusted, busbar, said, answer
):
    mill = trusted("mill", "mill")
    done = busbar("plugin", "install", mill.wheel("mill-dark", code=HIDDEN))
    assert (done.returncode, done.stdout) == (1, "")
    assert "release_blocked_by_scan: Plugin failed security scan: mill_dark/__init__.py:" in done.stderr
    assert (await host.ask("GET", "/api/v1/plugins/mill-dark"))[0] == 404

    said("plugin", "install", mill.wheel("mill-wheel", code=LOUD))
    found = rows(said("plugin", "scan", "mill-wheel"))
    assert ["medium", "starts-process", "mill_wheel/__init__.py:9"] in [row[:3] for row in found]
    said("plugin", "install", mill.wheel("mill-pond"))
    assert "mill-pond 1.0.0, scanned " in said("plugin", "scan", "mill-pond")
    assert "no known pattern found; not done: " in said("plugin", "scan", "mill-pond")
    assert answer("plugin", "scan", "mill-pond")["findings"] == []
    document = json.loads(said("plugin", "bill-of-materials", "mill-pond"))
    assert (document["bomFormat"], document["metadata"]["component"]["name"]) == ("CycloneDX", "mill-pond")


# -- keys


async def test_a_key_is_changed_for_another_without_a_break(host, trusted, maker, busbar, said, answer):
    smiths = trusted("smiths", "forge")
    said("plugin", "install", smiths.wheel("forge"), "--enable")
    fresh = maker("smiths", "forge")
    answer("publisher", "add-key", "smiths", fresh.public, "--not-after", "2999-01-01T00:00:00Z")
    said("publisher", "retire", "smiths", smiths.public, "--reason", "a new one is there")
    listed = [row for row in rows(said("publisher", "list")) if row[0] == "smiths"]
    assert listed == [
        ["smiths", "forge", "process", fresh.kid[:16], "active", "2999-01-01T00:00:00.000Z"],
        ["smiths", smiths.kid[:16], "retired", "a", "new", "one", "is", "there"],
    ]
    assert "release_key_retired" in busbar("plugin", "upgrade", "forge", smiths.wheel("forge", "2.0.0")).stderr
    assert "forge 3.0.0 is running" in said("plugin", "upgrade", "forge", fresh.wheel("forge", "3.0.0", sequence=3))


async def test_a_revoked_key_stops_what_runs_until_the_release_is_kept(host, trusted, said, answer):
    potters = trusted("potters", "kiln")
    said("plugin", "install", potters.wheel("kiln"), "--enable")
    assert f"key {potters.kid} of potters is revoked" in said(
        "publisher", "revoke", "potters", potters.kid[:12], "--reason", "stolen"
    )
    failed = await reaches(host, "kiln", "failed")
    assert (failed["cause"], failed["evidence"].endswith("is revoked: stolen")) == ("release_revoked", True)
    shown = said("plugin", "show", "kiln")
    assert "state      failed: release_revoked" in shown

    assert f"release {failed['release']} is kept" in said("publisher", "keep", "kiln", "--reason", "until Monday")
    await reaches(host, "kiln", "running")
    assert rows(said("publisher", "keep")) == [[failed["release"], "kiln", "1.0.0"]]
    said("publisher", "keep", "kiln", "--drop")
    await reaches(host, "kiln", "failed")
    assert answer("publisher", "keep") == []


async def test_a_publisher_that_is_removed_takes_what_it_signed_along(host, trusted, said):
    glaziers = trusted("glaziers", "pane")
    said("plugin", "install", glaziers.wheel("pane"), "--enable")
    assert "publisher glaziers is trusted no more" in said("publisher", "remove", "glaziers")
    assert (await reaches(host, "pane", "failed"))["cause"] == "release_unknown_publisher"


# -- policies


async def test_a_policy_asks_for_a_reviewer_and_what_is_not_said_of_it_stays(trusted, busbar, said, answer):
    authors, board = trusted("authors", "book"), trusted("board", "book")
    said("publisher", "policy", "book", "--threshold", "2", "--publisher", "authors", "--publisher", "board")
    wheel = authors.wheel("book-one")
    assert "release_threshold_unmet" in busbar("plugin", "install", wheel).stderr
    board.sign(wheel)
    assert said("plugin", "install", wheel) == "book-one 1.0.0 is disabled (not enabled)\n"

    changed = answer("publisher", "policy", "book", "--predicate", "https://example.com/review/v1")
    assert (changed["threshold"], changed["publishers"]) == (2, ["authors", "board"])
    assert rows(said("publisher", "policy", "book")) == [
        ["book", "2", "authors,", "board", "https://example.com/review/v1"]
    ]
    answer("publisher", "policy", "*", "--threshold", "1")
    assert [one["namespace"] for one in answer("publisher", "policy")] == ["*", "book"]
    said("publisher", "policy", "*", "--drop")
    said("publisher", "policy", "book", "--drop")
    assert said("publisher", "policy") == "no policies: one publisher signs, for its own plugins\n"


# -- a database that somebody else wrote into


def answered(busbar, reply, *arguments):
    """Runs the command on a terminal, where somebody answers its question."""
    controller, terminal = pty.openpty()
    try:
        os.write(controller, reply.encode())
        return busbar(*arguments, stdin=os.ttyname(terminal))
    finally:
        os.close(controller)
        os.close(terminal)


async def test_nothing_is_believed_after_somebody_wrote_into_the_database_until_it_is_confirmed(
    host, trusted, busbar, said
):
    weavers = trusted("weavers", "loom")
    said("plugin", "install", weavers.wheel("loom"), "--enable")
    assert "there is nothing to confirm" in said("publisher", "confirm")
    assert host.stop() == 0
    with sqlite3.connect(host.folder / "var" / "busbar.db") as database:
        database.execute("UPDATE publishers SET plugins = '[\"*\"]' WHERE id = 'weavers'")
        database.execute(
            "UPDATE plugins SET granted = json_set(granted, '$.network', json('[\"*:443\"]')) WHERE id = 'loom'"
        )
    database.close()
    host.start()
    failed = await reaches(host, "loom", "failed")
    assert failed["cause"] in {"trust_store_tampered", "registry_tampered"}
    assert "trust_store_tampered" in busbar("publisher", "retire", "weavers", weavers.kid).stderr

    unasked = busbar("publisher", "confirm")
    assert (unasked.returncode, "say --yes" in unasked.stderr) == (2, True)
    assert "the trust store was changed by someone else" in unasked.stderr
    assert "the registry was changed by someone else" in unasked.stderr
    assert [row[1] for row in rows(unasked.stdout) if row[:1] == ["weavers"]] == ["*"]
    assert "network: *:443" in unasked.stdout

    assert answered(busbar, "n\n", "publisher", "confirm").returncode == 1
    assert "trust_store_tampered" in busbar("publisher", "remove", "weavers").stderr
    done = answered(busbar, "y\n", "publisher", "confirm")
    assert (done.returncode, "confirmed" in done.stdout) == (0, True), done.stderr
    await reaches(host, "loom", "running")


# -- the guide


@pytest.fixture
def paste(host, tmp_path, tmp_path_factory):
    """Runs a block of the administrators' guide as a reader would; what it said."""
    environment = {"BUSBAR_URL": host.url, "BUSBAR_TOKEN": host.token}

    def run(name, path):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", BLOCKS[name]],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    async def pasted(name):
        done = await asyncio.to_thread(run, name, path)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        return done.stdout

    with forked_command.on_path(tmp_path_factory.mktemp("bin"), tmp_path, environment) as path:
        yield pasted


async def test_trust_installs_and_upgrades_go_as_the_guide_for_administrators_says(host, acme, maker, paste, tmp_path):
    renewed, board = maker("acme", "acme"), maker("review-board", "acme")
    for file, publisher in (("acme", acme), ("acme-2", renewed), ("review", board)):
        (tmp_path / f"{file}.pub").write_text(publisher.public)
    board.sign(acme.wheel("acme-reviewed", folder=tmp_path))

    assert acme.kid[:16] in await paste("trust_publisher")
    said = await paste("trust_install")
    assert "acme-demo 2.0.0 is running" in said
    assert said.splitlines()[-1].startswith("acme-demo 1.0.0 is running")
    assert "no known pattern found" in await paste("trust_scan")
    assert json.loads((tmp_path / "acme-demo.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    assert "acme-reviewed 1.0.0 is running" in await paste("trust_policy")
    await reaches(host, "acme-demo", "running")  # which one publisher alone has signed
    assert "is retired: what it signed and is installed runs on" in await paste("trust_rotation")
    assert "is kept: it runs on" in await paste("trust_revocation")
    assert (await reaches(host, "acme-demo", "failed"))["cause"] == "release_revoked"
    assert "there is nothing to confirm" in await paste("trust_confirm")


def test_every_example_of_trust_is_tried_out():
    tried = {"publisher", "install", "scan", "policy", "rotation", "revocation", "confirm"}
    assert {f"trust_{name}" for name in tried} == {name for name in BLOCKS if name.startswith("trust_")}
