"""Schedules and their history as the API and the command show them."""

import json

import pytest
from typer.testing import CliRunner

from host.api.endpoint import PARTS, Call, PageQuery
from host.api.resources.schedules import Schedules
from host.cli import schedule as commands
from host.cli.client import Answer
from host.observe.audit import Audit
from host.scheduling.errors import ScheduleNotFoundError
from plugin_sdk.schedule import Schedule


@pytest.fixture
def resource(world):
    return Schedules(world.scheduler, Audit(world.database, world.clock))


def asked(schedule="clock/tick", **query):
    return Call({PARTS: {"id": schedule}}, PageQuery(**query), None, None)


def shown(answer):
    """The data of an answer as JSON has it."""
    plain = answer.data if isinstance(answer.data, list) else [answer.data]
    return [one.model_dump(by_alias=True, mode="json") for one in plain]


async def test_a_schedule_is_shown_with_its_rule_its_policies_and_when_it_is_due(world, resource):
    await world.adopt(
        Schedule(
            name="tick",
            cron="0 14 * * *",
            timezone="Europe/Berlin",
            misfire="all",
            misfire_limit=3,
            grace=30,
            overlap="queue",
            jitter=5,
            start="2026-01-01T00:00:00Z",
            max_runtime=20,
        )
    )
    assert shown(await resource.list(asked())) == [
        {
            "id": "clock/tick",
            "plugin": "clock",
            "name": "tick",
            "rule": "0 14 * * *",
            "timezone": "Europe/Berlin",
            "start": "2026-01-01T00:00:00Z",
            "end": None,
            "misfire": "all",
            "misfireLimit": 3,
            "graceSeconds": 30,
            "overlap": "queue",
            "maxRunning": 1000,
            "jitterSeconds": 5,
            "maxRuntimeSeconds": 20,
            "state": "active",
            "error": None,
            "paused": False,
            "nextDue": "2026-01-05T13:00:00.000Z",
            "queuedDue": None,
            "lastDue": None,
            "lastFired": None,
        }
    ]


async def test_the_history_shows_what_fired_and_what_did_not_and_why(world, resource, every):
    await world.adopt(every(60, misfire="skip"))
    await world.pass_(60.5)
    await world.pass_(299.5)
    assert shown(await resource.runs(asked()))[2:] == [
        {
            "due": "2026-01-05T12:02:00.000Z",
            "lastDue": "2026-01-05T12:04:00.000Z",
            "firedAt": "2026-01-05T12:06:00.000Z",
            "eventId": None,
            "byHand": False,
            "outcome": "skipped",
            "reason": "misfire skip",
            "count": 3,
            "latenessSeconds": 240,
        },
        {
            "due": "2026-01-05T12:01:00.000Z",
            "lastDue": "2026-01-05T12:01:00.000Z",
            "firedAt": "2026-01-05T12:01:00.500Z",
            "eventId": "clock/tick/2026-01-05T12:01:00.000Z",
            "byHand": False,
            "outcome": "fired",
            "reason": None,
            "count": 1,
            "latenessSeconds": 0.5,
        },
    ]


async def test_schedules_come_in_pages(world, resource, every):
    await world.adopt(*(every(60, name=name) for name in "abcde"))
    answer = await resource.list(asked(page=2, limit=2))
    assert [one["name"] for one in shown(answer)] == ["c", "d"]
    assert answer.pagination == {"page": 2, "limit": 2, "total": 5, "totalPages": 3}


async def test_whoever_pauses_resumes_and_runs_is_answered_and_audited(world, resource, every):
    await world.adopt(every(60))
    assert shown(await resource.pause(asked()))[0]["state"] == "paused"
    assert shown(await resource.resume(asked()))[0]["state"] == "active"
    (ran,) = shown(await resource.run(asked()))
    assert (ran["byHand"], ran["outcome"], ran["reason"]) == (True, "fired", "by hand")
    rows = await world.database.read("SELECT action, target FROM audit ORDER BY number")
    assert [tuple(row) for row in rows] == [
        ("schedule.pause", "clock/tick"),
        ("schedule.resume", "clock/tick"),
        ("schedule.run", "clock/tick"),
    ]


@pytest.mark.parametrize("verb", ["pause", "resume", "run", "runs"])
async def test_a_schedule_that_is_not_there_is_said_not_to_be(resource, verb):
    with pytest.raises(ScheduleNotFoundError, match="GET /api/v1/schedules lists them"):
        await getattr(resource, verb)(asked("clock/none"))


ROWS = [
    {
        "id": "clock/tick",
        "rule": "* * * * *",
        "timezone": "UTC",
        "state": "broken",
        "nextDue": None,
        "error": "no zone",
        "due": "2026-01-05T12:01:00.000Z",
        "outcome": "skipped",
        "reason": "overlap",
        "count": 3,
        "latenessSeconds": 0.5,
    }
]


@pytest.mark.parametrize(
    ("arguments", "path", "words"),
    [
        (["list", "--limit", "7"], "/api/v1/schedules", ["clock/tick", "broken", "no zone"]),
        (["runs", "clock/tick", "--limit", "7"], "/api/v1/schedules/clock%2Ftick/runs", ["skipped", "overlap", "3"]),
    ],
)
def test_the_command_shows_what_the_host_answers(monkeypatch, arguments, path, words):
    asked_for = []

    def answer(method, path, *, query):
        asked_for.append((method, path, {name: str(value) for name, value in query.items()}))
        return Answer(ROWS, "", None)

    monkeypatch.setattr(commands, "request", answer)
    plain = CliRunner().invoke(commands.app, arguments)
    assert plain.exit_code == 0, plain.output
    assert all(word in plain.output for word in words)
    assert json.loads(CliRunner().invoke(commands.app, [*arguments, "--json"]).output) == ROWS
    assert asked_for == [("GET", path, {"page": "1", "limit": "7"})] * 2
