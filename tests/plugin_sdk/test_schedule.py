"""A schedule as an author writes it, and as it crosses the wire."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plugin_sdk
from plugin_sdk import Plugin, at, cron, description, every
from plugin_sdk.errors import DescriptionError
from plugin_sdk.schedule import MAX_RULE, Schedule, fields_of, instant_of
from plugin_sdk.testing import PluginHarness


def schedule(**changes: Any) -> Schedule:
    return Schedule(**{"name": "tick", "every": 60.0, **changes})


def only(decorator: Callable[[Callable[..., Any]], Any]) -> Schedule:
    """The schedule of a plugin whose one method has this decorator."""

    class Clockwork(Plugin):
        @decorator
        async def tick(self) -> None: ...

    (found,) = Clockwork().describe().schedules
    return found


def test_there_is_one_schedule_wherever_it_is_imported_from() -> None:
    assert plugin_sdk.Schedule is description.Schedule is Schedule


REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    ("two rules", lambda: schedule(cron="* * * * *"), "schedule 'tick' takes exactly one of cron, every and at"),
    ("a name with a dash", lambda: schedule(name="a-b"), "'a-b' is no name for a schedule"),
    ("a rule without end", lambda: schedule(every=None, cron="*" * (MAX_RULE + 1)), "at most 256 characters"),
    ("an unknown misfire policy", lambda: schedule(misfire="never"), "one of 'skip', 'once', 'all', not 'never'"),
    (
        "an unknown overlap policy",
        lambda: schedule(overlap="replace"),
        "one of 'allow', 'skip', 'queue', 'cancel-previous', not 'replace'",
    ),
    ("no misfires", lambda: schedule(misfire_limit=0), "misfire_limit must be 1 to 1000, not 0"),
    ("too many misfires", lambda: schedule(misfire_limit=1001), "misfire_limit must be 1 to 1000, not 1001"),
    ("nothing may run", lambda: schedule(max_running=0), "max_running must be 1 to 1000, not 0"),
    ("grace before the instant", lambda: schedule(grace=-1), "grace must be 0 to 86400, not -1"),
    ("grace without end", lambda: schedule(grace=float("inf")), "grace must be 0 to 86400"),
    ("grace that is no number", lambda: schedule(grace=float("nan")), "grace must be 0 to 86400"),
    ("jitter of two days", lambda: schedule(jitter=172_800), "jitter must be 0 to 86400, not 172800"),
    ("no time to run", lambda: schedule(max_runtime=0), "max_runtime must be above 0 and at most 3600 s"),
    ("too much time to run", lambda: schedule(max_runtime=3601), "max_runtime must be above 0 and at most 3600 s"),
    ("a start without offset", lambda: schedule(start="2026-01-01T00:00:00"), "start is no instant (it has no offset)"),
    ("an end that is no instant", lambda: schedule(end="soon"), "write it as 2026-11-20T10:00:00Z"),
    ("a start long ago", lambda: schedule(start="1969-01-01T00:00:00Z"), "it is before 1970"),
    (
        "an end before the start",
        lambda: schedule(start="2026-01-01T02:00:00+02:00", end="2025-12-31T23:59:59Z"),
        "end must not be before start",
    ),
    (
        "one instant with a start",
        lambda: Schedule(name="tick", at="2026-01-01T00:00:00Z", start="2026-01-01T00:00:00Z"),
        "one instant needs no start and no end",
    ),
    ("an option that is none", lambda: every(60, retries=3), "no option 'retries': there are name, misfire"),
]


@pytest.mark.parametrize(("made", "sentence"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_schedule_that_cannot_be_meant_is_refused_when_it_is_made(made: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(DescriptionError) as refused:
        made()
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "bounds",
    [
        {"misfire_limit": 1, "max_running": 1, "grace": 0, "jitter": 0},
        {"misfire_limit": 1000, "max_running": 1000, "grace": 86_400, "jitter": 86_400, "max_runtime": 3600},
        {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"},
    ],
)
def test_what_stands_on_the_bound_is_allowed_and_crosses_the_wire(bounds: dict[str, Any]) -> None:
    made = schedule(**bounds)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Schedule) == made


def test_a_schedule_of_before_there_were_policies_is_read_with_the_defaults() -> None:
    old = b'{"name":"tick","cron":null,"every":60.0,"at":null,"timezone":"UTC","misfire":"once"}'
    assert msgspec.json.decode(old, type=Schedule) == schedule()


def test_the_policies_are_no_part_of_the_rule() -> None:
    assert schedule(grace=5, overlap="skip", jitter=3, misfire="all").rule == schedule().rule
    assert schedule(start="2026-01-01T00:00:00Z").rule != schedule().rule
    assert schedule(every=61).rule != schedule().rule


def test_a_decorator_takes_every_policy_spans_and_instants_among_them() -> None:
    found = only(
        cron(
            "0 8 * * mon",
            timezone="Europe/Berlin",
            name="digest",
            misfire="all",
            misfire_limit=3,
            grace=timedelta(minutes=5),
            overlap="queue",
            jitter=timedelta(seconds=30),
            start=datetime(2026, 1, 1, tzinfo=UTC),
            end="2026-12-31T00:00:00Z",
            max_runtime=timedelta(minutes=2),
        )
    )
    assert found == Schedule(
        name="digest",
        cron="0 8 * * mon",
        timezone="Europe/Berlin",
        misfire="all",
        misfire_limit=3,
        grace=300.0,
        overlap="queue",
        jitter=30.0,
        start="2026-01-01T00:00:00+00:00",
        end="2026-12-31T00:00:00Z",
        max_runtime=120.0,
    )


def test_intervals_and_instants_take_the_same_policies() -> None:
    assert only(every(60, overlap="cancel-previous", max_running=2)) == schedule(
        overlap="cancel-previous", max_running=2
    )
    assert only(at("2026-01-01T00:00:00Z", misfire="skip", grace=5)) == Schedule(
        name="tick", at="2026-01-01T00:00:00Z", misfire="skip", grace=5
    )


def test_an_option_that_is_none_is_left_at_its_default() -> None:
    assert fields_of({"name": None, "max_runtime": None}) == {"max_runtime": None}
    assert only(every(60, name=None, start=None)) == schedule()


@given(st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001 - made aware below
def test_an_instant_is_the_same_in_every_offset(local: datetime, minutes: int) -> None:
    aware = local.replace(tzinfo=UTC)
    moved = aware.astimezone(_offset(minutes))
    assert instant_of(moved.isoformat()) == instant_of(aware.isoformat()) == pytest.approx(aware.timestamp())


def _offset(minutes: int) -> Any:
    from datetime import timezone

    return timezone(timedelta(minutes=minutes))


async def test_the_example_of_the_authors_guide_is_a_plugin_that_works() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "plugin-author.md").read_text(encoding="utf-8")
    example = guide.partition("## Schedules")[2].partition("```python\n")[2].partition("```")[0]
    module: dict[str, Any] = {}
    exec(compile(example, "plugin-author.md", "exec"), module)  # noqa: S102 - an example of our own
    async with PluginHarness(module["Reports"]) as plugin:
        for name in ("morning", "poll", "new_year"):
            assert (await plugin.fire(name)).outcome == "delivered"
        assert plugin.value("polled") is True
        morning, poll, _ = plugin.description.schedules
        assert (morning.grace, poll.overlap, poll.max_runtime) == (3600, "skip", 240)
