"""The command line over deliveries: policies, dead letters and replays of a real daemon."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from plugin_projects import write_project

COURIER = '''"""Delivers parcels, and remembers each."""
from plugin_sdk import DeadLetter, Plugin, every, on_event, service


class Courier(Plugin):
    def __init__(self):
        super().__init__()
        self.seen = []

    @on_event("parcel.*", first_retry=0.1, priority=5)
    async def carry(self, event, context):
        self.seen.append([event.id, context.delivery.replay])
        if event.type == "parcel.broken":
            raise DeadLetter("it is broken")

    @on_event("stamp.*")
    async def stamp(self, event):
        if event.type == "stamp.missing":
            raise DeadLetter("there is no stamp")

    @every(3600)
    async def sweep(self):
        """Do nothing."""

    @service
    async def carried(self):
        """What was carried."""
        return self.seen
'''
MANIFEST = '[permissions]\nsubscribe = ["parcel.*", "stamp.*"]\n'


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, daemon_class):
    wheel = signed.build(write_project(tmp_path_factory.mktemp("courier"), "courier", COURIER, manifest=MANIFEST))
    one = daemon_class(tmp_path_factory.mktemp("cli")).start()

    async def install():
        await one.trust(signed.public, ["courier"])
        status, answer = await one.install(wheel)
        assert status == 201, answer

    asyncio.run(install())
    yield one
    assert one.stop() == 0


class Command:
    """The command, against the daemon."""

    def __init__(self, host):
        self._env = {"BUSBAR_URL": host.url, "BUSBAR_TOKEN": host.token}

    def begun(self, *arguments, terminal=subprocess.PIPE, **env):
        return subprocess.Popen(
            [sys.executable, "-m", "host.cli.main", *map(str, arguments)],
            env={**os.environ, **self._env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
        )

    def __call__(self, *arguments, **options):
        begun = self.begun(*arguments, **options)
        stdout, stderr = begun.communicate(timeout=60)
        return subprocess.CompletedProcess(begun.args, begun.returncode, stdout, stderr)


@pytest.fixture
def busbar(host):
    return Command(host)


@pytest.fixture
def answer(busbar):
    """Runs the command with --json; answers what it answered."""

    def run(*arguments):
        done = busbar(*arguments, "--json")
        assert done.returncode == 0, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    return run


async def letters_of(host, **query):
    _, found = await host.ask("GET", "/api/v1/dead-letters", params=query)
    return found["data"]


async def given_up(host, *ids, type_="parcel.broken"):
    """Publish events that become dead letters, and wait until they are; the letters, by the event's id."""
    for number, id_ in enumerate(ids):
        await host.publish(type_, id_=id_, data={"weight": number})

    async def all_there():
        found = {one["eventId"]: one for one in await letters_of(host)}
        return set(ids) <= set(found) and {id_: found[id_] for id_ in ids}

    return await host.until(all_there)


async def has_carried(host, *wanted):
    async def all_there():
        _, found = await host.ask("POST", "/api/v1/plugins/courier/call/carried", json_body={})
        return set(wanted) <= {one for one, _ in found["data"]}

    await host.until(all_there)


@pytest.fixture
async def no_letters(host):
    await host.ask("POST", "/api/v1/dead-letters/discard", json_body={})


# -- policies


def test_the_policies_of_a_plugin_are_listed_with_that_of_its_firings(busbar, answer):
    assert [one["name"] for one in answer("plugin", "policy", "courier")] == ["carry", "stamp", "@schedules"]
    listed = busbar("plugin", "policy", "courier").stdout
    assert "SUBSCRIPTION" in listed
    assert "parcel.*" in listed


def test_a_field_that_is_set_is_overridden_beside_those_that_were_and_an_empty_one_is_the_plugins_own(busbar, answer):
    first = answer("plugin", "policy", "courier", "carry", "--set", "attempts=2")
    assert (first["policy"]["attempts"], first["overridden"]) == (2, ["attempts"])
    second = answer("plugin", "policy", "courier", "carry", "--set", "retry_delays=[1, 5]", "--set", "order=by-key")
    assert second["overridden"] == ["attempts", "order", "retryDelays"]
    assert (second["policy"]["retryDelays"], second["policy"]["order"]) == ([1, 5], "by-key")
    third = answer("plugin", "policy", "courier", "carry", "--set", "attempts=", "--set", "first-retry=3")
    assert third["overridden"] == ["firstRetry", "order", "retryDelays"]
    assert third["policy"]["attempts"] == 8
    shown = busbar("plugin", "policy", "courier", "carry").stdout
    assert any(line.split() == ["firstRetry", "3.0", "administrator"] for line in shown.splitlines()), shown
    assert any(line.split() == ["priority", "5", "plugin"] for line in shown.splitlines()), shown
    last = answer("plugin", "policy", "courier", "carry", "--reset", "--set", "jitter=0")
    assert last["overridden"] == ["jitter"]
    assert answer("plugin", "policy", "courier", "carry", "--reset")["overridden"] == []


def test_the_policy_of_firings_can_be_overridden_as_any(answer):
    found = answer("plugin", "policy", "courier", "@schedules", "--set", "attempts=1")
    assert (found["name"], found["overridden"]) == ("@schedules", ["attempts"])
    answer("plugin", "policy", "courier", "@schedules", "--reset")


REFUSED = [
    (["plugin", "policy", "nobody"], 1, "plugin_not_found", "Plugin nobody not found"),
    (["plugin", "policy", "courier", "nothing"], 1, "subscription_not_found", "courier has no subscription 'nothing'"),
    (["plugin", "policy", "courier", "carry", "--set", "attempts=0"], 1, "policy_invalid", "attempts must be 1 to 100"),
    (["plugin", "policy", "courier", "carry", "--set", "tempo=1"], 1, "body_invalid", "tempo"),
    (["plugin", "policy", "courier", "carry", "--set", "attempts"], 2, "usage", "write FIELD=VALUE"),
    (["plugin", "policy", "courier", "--set", "attempts=2"], 2, "usage", "name the subscription"),
    (["plugin", "policy", "courier", "--reset"], 2, "usage", "name the subscription"),
    (["dead-letter", "show", "999999"], 1, "dead_letter_not_found", "dead letter 999999 not found"),
    (["dead-letter", "retry", "999999"], 1, "dead_letter_not_found", "dead letter 999999 not found"),
    (["dead-letter", "drop", "999999"], 1, "dead_letter_not_found", "dead letter 999999 not found"),
    (["dead-letter", "retry"], 2, "usage", "--type '*' for all of them"),
    (["dead-letter", "drop", "--dry-run"], 2, "usage", "--type '*' for all of them"),
    (["dead-letter", "drop", "1", "--plugin", "courier"], 2, "usage", "not both"),
    (["dead-letter", "drop", "1", "--dry-run"], 2, "usage", "not both"),
    (["dead-letter", "list", "--subscription", "carry"], 2, "usage", "--plugin"),
    (["dead-letter", "drop", "--filter", "{"], 2, "usage", "--filter is no JSON"),
    (["dead-letter", "drop", "--filter", '{"nearly": {}}'], 1, "filter_invalid", "there is no such dialect"),
    (["dead-letter", "list", "--since", "yesterday"], 1, "query_invalid", "since"),
    (["event", "replay", "nobody"], 1, "plugin_not_found", "Plugin nobody not found"),
    (["event", "replay", "courier", "--subscription", "no"], 1, "subscription_not_found", "it has carry, stamp"),
    (
        ["event", "replay", "courier", "--since", "2100-01-01T00:00:00Z"],
        1,
        "nothing_to_replay",
        "no event of that time",
    ),
    (["event", "replay", "courier", "--filter", "nearly"], 2, "usage", "--filter is no JSON"),
    (["event", "replay", "courier", "--filter", '{"exact": {}}'], 1, "filter_invalid", "filters[0].exact"),
]


@pytest.mark.parametrize(
    ("arguments", "status", "code", "sentence"), REFUSED, ids=[" ".join(one[0]) for one in REFUSED]
)
def test_what_is_refused_has_the_exit_code_the_code_and_the_sentence_of_the_api(
    busbar, arguments, status, code, sentence
):
    for_people = busbar(*arguments)
    assert for_people.returncode == status, (for_people.stdout, for_people.stderr)
    assert for_people.stdout == ""
    assert for_people.stderr.startswith(f"{code}: ")
    assert sentence in for_people.stderr
    for_programs = busbar(*arguments, "--json")
    assert for_programs.returncode == status
    found = json.loads(for_programs.stdout)
    assert (found["success"], found["code"]) == (False, code)
    assert for_programs.stderr == ""


@pytest.mark.parametrize(
    "arguments", [["dead-letter", "show", "1"], ["plugin", "policy", "courier"], ["event", "replay", "courier"]]
)
def test_without_a_daemon_the_exit_code_is_3(busbar, arguments):
    done = busbar(*arguments, BUSBAR_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr.partition(":")[0]) == (3, "no_daemon")


# -- dead letters


@pytest.mark.usefixtures("no_letters")
async def test_a_dead_letter_is_shown_with_its_event_its_reason_and_its_attempts(host, busbar, answer):
    letter = (await given_up(host, "shown"))["shown"]
    found = answer("dead-letter", "show", letter["id"])
    assert (found["eventId"], found["reason"]) == ("shown", "it is broken")
    shown = busbar("dead-letter", "show", letter["id"]).stdout
    for part in ("courier/carry", "it is broken", "attempt 1", '"type": "parcel.broken"'):
        assert part in shown


@pytest.mark.usefixtures("no_letters")
async def test_one_dead_letter_is_retried_or_dropped_by_its_id(host, busbar):
    made = await given_up(host, "retried", "dropped")
    again, gone = made["retried"]["id"], made["dropped"]["id"]
    assert busbar("dead-letter", "drop", gone).stdout == f"dead letter {gone} discarded\n"
    assert busbar("dead-letter", "retry", again).stdout == f"dead letter {again} will be delivered again\n"

    async def given_up_again():
        return [one for one in await letters_of(host) if one["eventId"] == "retried" and one["id"] != again]

    await host.until(given_up_again)
    assert [one["eventId"] for one in await letters_of(host)] == ["retried"]


@pytest.mark.usefixtures("no_letters")
async def test_dead_letters_are_listed_by_subscription_type_and_time(host, answer):
    await given_up(host, "listed-1")
    await given_up(host, "listed-2", type_="stamp.missing")

    def listed(*options):
        return {one["eventId"] for one in answer("dead-letter", "list", *options)}

    assert listed() == {"listed-1", "listed-2"}
    assert listed("--plugin", "courier", "--subscription", "stamp") == {"listed-2"}
    assert listed("--type", "parcel.*") == {"listed-1"}
    assert listed("--plugin", "nobody") == set()
    assert listed("--since", "2100-01-01T00:00:00Z") == set()
    assert listed("--until", "2100-01-01T00:00:00Z") == {"listed-1", "listed-2"}


@pytest.mark.usefixtures("no_letters")
async def test_all_dead_letters_that_fit_are_decided_on_and_a_dry_run_changes_nothing(host, busbar, answer):
    made = await given_up(host, "bulk-0", "bulk-1", "bulk-2")
    await given_up(host, "bulk-stamp", type_="stamp.missing")
    light = json.dumps({"pattern": {"data": {"weight": [{"numeric": ["<", 2]}]}}})
    options = ["--plugin", "courier", "--subscription", "carry", "--type", "parcel.*", "--filter", light]
    planned = answer("dead-letter", "drop", *options, "--dry-run")
    assert (planned["count"], planned["dryRun"]) == (2, True)
    assert set(planned["sample"]) == {made["bulk-0"]["id"], made["bulk-1"]["id"]}
    told = busbar("dead-letter", "drop", *options, "--dry-run").stdout
    assert told.startswith("dead letters that would be discarded: 2 (")
    assert len(await letters_of(host)) == 4
    assert busbar("dead-letter", "drop", *options).stdout.startswith("dead letters that are discarded: 2 (")
    assert {one["eventId"] for one in await letters_of(host)} == {"bulk-2", "bulk-stamp"}
    assert answer("dead-letter", "retry", "--type", "*")["count"] == 2

    async def both_again():
        found = {one["eventId"]: one["id"] for one in await letters_of(host)}
        return set(found) == {"bulk-2", "bulk-stamp"} and found["bulk-2"] > made["bulk-2"]["id"]

    await host.until(both_again)


# -- replays


async def test_a_replay_is_planned_begun_and_waited_for(host, busbar, answer):
    await host.publish("parcel.sent", id_="replay-1")
    await host.publish("parcel.sent", id_="replay-2")
    await has_carried(host, "replay-1", "replay-2")
    wanted = ["courier", "--subscription", "carry", "--filter", '{"prefix": {"id": "replay-"}}']
    planned = answer("event", "replay", *wanted, "--dry-run")
    assert (planned["state"], planned["id"], planned["matching"]) == ("planned", None, 2)
    told = busbar("event", "replay", *wanted, "--dry-run").stdout
    assert told.startswith("2 of events ")
    assert "replay-1" in told
    ended = answer("event", "replay", *wanted, "--wait")
    assert (ended["state"], ended["delivered"]) == ("done", 2)
    waited = busbar("event", "replay", *wanted, "--wait")
    assert waited.stdout == f"replay {ended['id'] + 1} to courier is done: 2 delivered\n"
    assert waited.stderr == ""
    begun = answer("event", "replay", *wanted)
    assert begun["id"] == ended["id"] + 2

    async def done():
        _, found = await host.ask("GET", f"/api/v1/replays/{begun['id']}")
        return found["data"]["state"] == "done"

    await host.until(done)
    _, found = await host.ask("POST", "/api/v1/plugins/courier/call/carried", json_body={})
    assert found["data"].count(["replay-1", True]) == 3
    assert found["data"].count(["replay-1", False]) == 1


async def test_waiting_for_a_replay_shows_on_a_terminal_how_far_it_is(host, busbar):
    await host.publish("parcel.sent", id_="terminal-1")
    await has_carried(host, "terminal-1")
    ours, theirs = pty.openpty()
    seen = []

    def read():
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # Linux: the other end is closed
                return
            seen.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = await asyncio.to_thread(
            busbar,
            "event",
            "replay",
            "courier",
            "--filter",
            '{"exact": {"id": "terminal-1"}}',
            "--wait",
            terminal=theirs,
            TERM="xterm",
            COLUMNS="200",
        )
    finally:
        os.close(theirs)
        reader.join(10)
        os.close(ours)
    assert done.returncode == 0
    assert "is done: 1 delivered" in done.stdout
    assert b"is running: 0 delivered" in b"".join(seen)


@pytest.fixture
async def replay_that_waits(host, busbar):
    """A replay that cannot deliver, for its plugin is disabled, and a command that waits for it."""
    assert (await host.publish("parcel.sent"))[0] == 202
    await host.ask("POST", "/api/v1/plugins/courier/disable")
    command = busbar.begun("event", "replay", "courier", "--wait", "--json")

    async def running():
        _, found = await host.ask("GET", "/api/v1/replays", params={"plugin": "courier"})
        return [one["id"] for one in found["data"] if one["state"] == "running"]

    (replay,) = await host.until(running)
    yield replay, command
    await host.ask("DELETE", f"/api/v1/replays/{replay}")
    await host.ask("POST", "/api/v1/plugins/courier/enable")


async def test_a_replay_that_somebody_ends_is_a_failure_for_who_waits_for_it(host, replay_that_waits):
    replay, command = replay_that_waits
    await host.ask("DELETE", f"/api/v1/replays/{replay}")
    said, _ = await asyncio.to_thread(command.communicate, timeout=60)
    found = json.loads(said)
    assert (command.returncode, found["success"], found["code"]) == (1, False, "replay_cancelled")


async def test_who_stops_waiting_for_a_replay_is_told_that_it_goes_on(host, replay_that_waits):
    replay, command = replay_that_waits

    async def looks():
        return [one for one in host.logged("Request started") if one["url"] == f"/api/v1/replays/{replay}"]

    await host.until(looks)
    command.send_signal(signal.SIGINT)
    said, _ = await asyncio.to_thread(command.communicate, timeout=60)
    found = json.loads(said)
    assert (command.returncode, found["code"]) == (1, "interrupted")
    assert f"replay {replay} goes on" in found["message"]
    _, found = await host.ask("GET", f"/api/v1/replays/{replay}")
    assert found["data"]["state"] == "running"
