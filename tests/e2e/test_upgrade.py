"""Upgrades as an administrator has them: no event is lost or had twice, and a bad release is taken back."""

import asyncio
import contextlib
import uuid

import aiohttp
import pytest
from plugin_projects import write_project

LEDGER = '''"""Writes down every event with the version that had it."""
import asyncio
import os
from pathlib import Path

from plugin_sdk import Health, Plugin, on_event

VERSION = "{version}"
MISCHIEF = "{mischief}"


class Ledger(Plugin):
    async def start(self, context):
        if MISCHIEF == "start":
            raise RuntimeError("this release does not start")
        if MISCHIEF == "hang":
            await asyncio.sleep(3600)
        self.file = os.open(Path.cwd() / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def check_health(self):
        return Health("fail", "this release is not well") if MISCHIEF == "health" else Health()

    @on_event("ledger.entry")
    async def enter(self, event):
        if MISCHIEF == "events":
            raise RuntimeError("this release cannot handle events")
        os.write(self.file, f"{{VERSION}} {{event.id}}\\n".encode())
'''
MANIFEST = '[permissions]\nsubscribe = ["ledger.*"]\n'


@pytest.fixture(scope="module")
def releases(signed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")

    def build(version, mischief="", manifest=MANIFEST):
        code = LEDGER.format(version=version, mischief=mischief)
        return signed.build(write_project(folder, "ledger", code, version=version, manifest=manifest))

    return {
        "first": build("1.0.0"),
        "second": build("2.0.0"),
        "does not start": build("3.0.0", "start"),
        "hangs in its start": build("3.1.0", "hang"),
        "is not well": build("3.2.0", "health"),
        "cannot handle events": build("3.3.0", "events"),
        "asks for more": build("4.0.0", manifest=MANIFEST + 'publish = ["ledger.closed"]\n'),
    }


@pytest.fixture
async def host(daemon, signed, releases):
    one = daemon(
        supply={"probation": "2s"},
        runtime={"start": "3s"},
        breaker={"consecutive_failures": 3, "open_for": "60s"},
    ).start()
    await one.trust(signed.public, ["ledger"])
    status, answer = await one.install(releases["first"])
    assert status == 201, answer
    return one


async def upgrade(host, wheel, **params):
    form = aiohttp.FormData()
    form.add_field("wheel", wheel.read_bytes(), filename=wheel.name)
    form.add_field("attestations", wheel.with_name(wheel.name + ".intoto.jsonl").read_bytes(), filename="a")
    return await host.ask("POST", "/api/v1/plugins/ledger/upgrade", data=form, params=params)


async def shown(host):
    return (await host.ask("GET", "/api/v1/plugins/ledger"))[1]["data"]


def entries(host):
    path = host.folder / "var" / "data" / "ledger" / "seen"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


async def upgraded_to(host, state):
    async def reached():
        last = (await shown(host))["upgrade"]
        return last if last and last["state"] == state else None

    return await host.until(reached)


class Publishing:
    """Publishes while something else happens; at the end every event must have been had exactly once."""

    def __init__(self, host):
        self.host = host
        self.ids = []

    async def __aenter__(self):
        self.task = asyncio.create_task(self._publish())
        await had_by(self.host, "1.0.0")
        return self

    async def _publish(self):
        async with aiohttp.ClientSession() as session:
            while True:
                id_ = str(uuid.uuid4())
                status, _ = await self.host.publish("ledger.entry", id_=id_, session=session)
                assert status == 202
                self.ids.append(id_)
                await asyncio.sleep(0.002)  # a rate that a worker keeps up with

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait((self.task,))


async def had_by(host, version):
    """Wait until a release has had an event."""

    async def any_had():
        return any(by == version for by, _ in entries(host))

    await host.until(any_had)


async def had(host, ids):
    async def all_had():
        return set(ids) <= {id_ for _, id_ in entries(host)}

    await host.until(all_had)
    return [id_ for _, id_ in entries(host)]


async def test_a_new_release_takes_over_and_no_event_is_lost_or_had_twice(host, releases):
    async with Publishing(host) as published:
        status, answer = await upgrade(host, releases["second"])
        assert (status, answer["data"]["version"], answer["data"]["state"]) == (200, "2.0.0", "running"), answer
        assert answer["data"]["upgrade"]["state"] == "probation"
        assert answer["data"]["previousVersion"] == "1.0.0"
        await had_by(host, "2.0.0")
    found = await had(host, published.ids)
    assert len(found) == len(set(found))
    versions = [version for version, _ in entries(host)]
    assert versions == sorted(versions), "the old release had an event after the new one took over"
    assert set(versions) == {"1.0.0", "2.0.0"}
    assert (await upgraded_to(host, "done"))["probationUntil"] is None


@pytest.mark.parametrize("release", ["does not start", "hangs in its start", "is not well"])
async def test_a_release_that_does_not_get_well_never_takes_over(host, releases, release):
    async with Publishing(host) as published:
        status, answer = await upgrade(host, releases[release])
        assert (status, answer["code"]) == (422, "upgrade_failed"), answer
        assert "1.0.0" in answer["message"]
    view = await shown(host)
    assert (view["version"], view["state"], view["upgrade"]["state"]) == ("1.0.0", "running", "failed")
    found = await had(host, published.ids)
    assert len(found) == len(set(found))
    left = [folder.name for folder in (host.folder / "var" / "releases").iterdir()]
    assert left == [view["release"]], "the release that failed was left behind"


async def test_a_release_whose_breaker_opens_on_probation_is_taken_back_and_says_why(host, releases):
    async with Publishing(host) as published:
        status, answer = await upgrade(host, releases["cannot handle events"])
        assert status == 200, answer
        last = await upgraded_to(host, "rolled-back")
        assert "breaker opened" in last["reason"]
        assert (last["fromVersion"], last["toVersion"]) == ("1.0.0", "3.3.0")
    view = await shown(host)
    assert (view["version"], view["enabled"]) == ("1.0.0", True)
    await had(host, published.ids)


async def test_an_administrator_goes_back_by_hand(host, releases):
    await upgrade(host, releases["second"])
    status, answer = await host.ask("POST", "/api/v1/plugins/ledger/rollback")
    assert (status, answer["data"]["version"], answer["data"]["state"]) == (200, "1.0.0", "running"), answer
    status, answer = await host.ask("POST", "/api/v1/plugins/ledger/rollback")
    assert (status, answer["data"]["version"]) == (200, "2.0.0"), answer


async def test_a_release_that_asks_for_more_waits_while_the_old_one_runs_on(host, releases):
    status, answer = await upgrade(host, releases["asks for more"])
    view = answer["data"]
    assert (status, view["version"], view["state"]) == (200, "1.0.0", "running"), answer
    assert (view["upgrade"]["state"], view["upgrade"]["missingGrants"]) == (
        "needs-approval",
        ["publish: ledger.closed"],
    )
    grants = {"subscribe": ["ledger.*"], "publish": ["ledger.closed"]}
    status, answer = await host.ask("PUT", "/api/v1/plugins/ledger/grants", json_body=grants)
    assert status == 200, answer
    assert (await shown(host))["version"] == "4.0.0"


async def test_an_upgrade_survives_a_kill_of_the_host_at_any_moment(host, releases):
    for delay in (0.02, 0.1, 0.3, 0.6):
        asking = asyncio.create_task(upgrade(host, releases["second"]))
        await asyncio.sleep(delay)  # not a wait: the moment of the kill is what is tried
        host.kill()
        with contextlib.suppress(aiohttp.ClientError):
            await asking
        host.start()

        async def running():
            view = await shown(host)
            return view["state"] == "running" and (view["upgrade"] or {}).get("state") != "starting"

        await host.until(running)
        assert list((host.folder / "var" / "staging").iterdir()) == []
        if (await shown(host))["version"] == "2.0.0":
            break
    status, _ = await upgrade(host, releases["second"])
    assert status in {200, 409}
    assert (await shown(host))["version"] == "2.0.0"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "release_rollback"),
        ({"allowPublisherChange": "true"}, "release_rollback"),
        ({"allowDowngrade": "true"}, ""),
    ],
)
async def test_an_older_version_comes_only_where_an_administrator_says_so(host, releases, params, code):
    await upgrade(host, releases["second"])
    _, answer = await upgrade(host, releases["first"], **params)
    assert (answer.get("code") or "") == code, answer
    assert (await shown(host))["version"] == ("2.0.0" if code else "1.0.0")
    if not code:
        _, audit = await host.ask("GET", "/api/v1/audit")
        assert any(one["detail"].get("overrides") == ["downgrade"] for one in audit["data"])


async def test_a_plugin_that_is_disabled_while_a_release_hangs_is_disabled_at_once(host, releases):
    asking = asyncio.create_task(upgrade(host, releases["hangs in its start"]))
    await host.until(lambda: _trying(host))
    status, answer = await host.ask("POST", "/api/v1/plugins/ledger/disable")
    assert (status, answer["data"]["state"]) == (200, "disabled"), answer
    assert (await asking)[0] == 422
    assert (await shown(host))["version"] == "1.0.0"


async def _trying(host):
    return ((await shown(host))["upgrade"] or {}).get("state") == "starting"
