"""When rules come due, at changes of the clock above all."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.scheduling.cron_rules import CronRule
from host.scheduling.errors import ScheduleRuleError
from host.scheduling.rules import check_rule, dispatch_at, instants, next_due, written
from plugin_sdk.schedule import Schedule

ZONES = [
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "America/Havana",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "UTC",
]


def cron(rule, timezone="UTC", **more):
    return Schedule(name="tick", cron=rule, timezone=timezone, **more)


def at(text):
    return datetime.fromisoformat(text).timestamp()


def local(found, zone):
    return datetime.fromtimestamp(found, ZoneInfo(zone)).strftime("%m-%d %H:%M%z")


def firings(schedule, since, count):
    return [local(one, schedule.timezone) for one in islice(instants(schedule, at(since), anchor=0), count)]


# Each line: what it is about, the rule, from when on, the next instants (local, with their offset).
CHANGES = {
    "America/New_York": [
        ("in the gap", "30 2 * * *", "2026-03-07T12:00-05:00", "03-08 03:00-0400, 03-09 02:30-0400"),
        ("two in the gap fire once", "10,50 2 * * *", "2026-03-08T00:00-05:00", "03-08 03:00-0400, 03-09 02:10-0400"),
        (
            "at the gap's end and in it",
            "0,30 2-3 * * *",
            "2026-03-08T00:00-05:00",
            "03-08 03:00-0400, 03-08 03:30-0400, 03-09 02:00-0400",
        ),
        ("in the fold", "30 1 * * *", "2026-10-31T12:00-04:00", "11-01 01:30-0400, 11-02 01:30-0500"),
        ("from within the fold", "30 1 * * *", "2026-11-01T01:10-05:00", "11-02 01:30-0500"),
        (
            "hours through the gap",
            "0 * * * *",
            "2026-03-08T00:30-05:00",
            "03-08 01:00-0500, 03-08 03:00-0400, 03-08 04:00-0400",
        ),
        (
            "hours through the fold",
            "0 * * * *",
            "2026-11-01T00:30-04:00",
            "11-01 01:00-0400, 11-01 01:00-0500, 11-01 02:00-0500",
        ),
        ("a wildcard in the gap", "*/30 2 * * *", "2026-03-08T00:00-05:00", "03-09 02:00-0400, 03-09 02:30-0400"),
        ("seconds in the fold", "15 30 1 * * *", "2026-11-01T00:00-04:00", "11-01 01:30-0400, 11-02 01:30-0500"),
        ("midnight of a change", "0 0 * * 0", "2026-03-07T12:00-05:00", "03-08 00:00-0500, 03-15 00:00-0400"),
    ],
    "Europe/Berlin": [
        ("in the gap", "30 2 * * *", "2026-03-28T12:00+01:00", "03-29 03:00+0200, 03-30 02:30+0200"),
        ("in the fold", "30 2 * * *", "2026-10-24T12:00+02:00", "10-25 02:30+0200, 10-26 02:30+0100"),
        ("weekdays", "0 8 * * mon-fri", "2026-03-27T09:00+01:00", "03-30 08:00+0200"),
    ],
    "Australia/Lord_Howe": [
        ("in the half-hour gap", "15 2 * * *", "2026-10-03T12:00+10:30", "10-04 02:30+1100, 10-05 02:15+1100"),
        ("behind the half-hour gap", "45 * * * *", "2026-10-04T01:00+10:30", "10-04 01:45+1030, 10-04 02:45+1100"),
        ("in the half-hour fold", "45 1 * * *", "2026-04-04T12:00+11:00", "04-05 01:45+1100, 04-06 01:45+1030"),
        (
            "every quarter through it",
            "*/15 1-2 * * *",
            "2026-04-05T01:30+11:00",
            "04-05 01:45+1100, 04-05 01:30+1030, 04-05 01:45+1030",
        ),
        ("behind the fold", "*/15 2 * * *", "2026-04-05T01:50+10:30", "04-05 02:00+1030, 04-05 02:15+1030"),
    ],
    "Australia/Sydney": [
        ("in the gap", "30 2 * * *", "2026-10-03T12:00+10:00", "10-04 03:00+1100, 10-05 02:30+1100"),
        ("in the fold", "30 2 * * *", "2026-04-04T12:00+11:00", "04-05 02:30+1100, 04-06 02:30+1000"),
    ],
    "America/Sao_Paulo": [
        ("midnight in the gap", "0 0 * * *", "2018-11-03T12:00-03:00", "11-04 01:00-0200, 11-05 00:00-0200"),
        ("midnight in the fold", "30 23 * * *", "2018-02-17T12:00-02:00", "02-17 23:30-0200, 02-18 23:30-0300"),
    ],
    "Asia/Beirut": [
        ("midnight in the gap", "15 0 * * *", "2026-03-28T12:00+02:00", "03-29 01:00+0300, 03-30 00:15+0300"),
        ("midnight in the fold", "30 23 * * *", "2026-10-24T12:00+03:00", "10-24 23:30+0300, 10-25 23:30+0200"),
    ],
    "America/Havana": [
        ("fold at one o'clock", "15 0 * * *", "2026-10-31T12:00-04:00", "11-01 00:15-0400, 11-02 00:15-0500"),
    ],
    "Pacific/Apia": [
        (
            "a day that was left out",
            "0 8 * * *",
            "2011-12-29T00:00-10:00",
            "12-29 08:00-1000, 12-31 00:00+1400, 12-31 08:00+1400",
        ),
    ],
}


@pytest.mark.parametrize(
    ("zone", "rule", "since", "expected"),
    [pytest.param(zone, *case[1:], id=f"{zone} {case[0]}") for zone, cases in CHANGES.items() for case in cases],
)
def test_at_a_change_of_the_clock_a_rule_fires_as_debian_has_it(zone, rule, since, expected):
    wanted = expected.split(", ")
    assert firings(cron(rule, zone), since, len(wanted)) == wanted


CALENDAR = [
    ("29 February", "0 0 29 2 *", "2026-01-01T00:00Z", ["2028-02-29", "2032-02-29", "2036-02-29"]),
    ("29 February beyond 2100", "0 0 29 2 *", "2096-03-01T00:00Z", ["2104-02-29"]),
    ("last day of the month", "0 0 L * *", "2026-01-01T00:00Z", ["2026-01-31", "2026-02-28", "2026-03-31"]),
    ("last weekday of the month", "0 0 LW * *", "2026-01-01T00:00Z", ["2026-01-30", "2026-02-27", "2026-03-31"]),
    ("second Monday", "0 0 * * mon#2", "2026-01-01T00:00Z", ["2026-01-12", "2026-02-09", "2026-03-09"]),
    ("last Friday", "0 0 * * 5L", "2026-01-01T00:00Z", ["2026-01-30", "2026-02-27", "2026-03-27"]),
    ("day of month or day of week", "0 0 13 * fri", "2026-02-01T00:00Z", ["2026-02-06", "2026-02-13", "2026-02-20"]),
    ("Sunday is 0 and 7", "0 0 * * 0,7", "2026-01-01T00:00Z", ["2026-01-04", "2026-01-11"]),
    ("a leap day on a Monday", "0 0 29 2 */1", "2026-01-01T00:00Z", ["2028-02-29"]),
]


@pytest.mark.parametrize(("rule", "since", "expected"), [case[1:] for case in CALENDAR], ids=[c[0] for c in CALENDAR])
def test_a_rule_finds_its_days(rule, since, expected):
    found = islice(instants(cron(rule), at(since), anchor=0), len(expected))
    assert [datetime.fromtimestamp(one, UTC).strftime("%Y-%m-%d") for one in found] == expected


REFUSED = [
    ("a date that never comes", cron("* * 31 2 *"), "is no cron rule"),
    ("30 February", cron("0 0 30 2 *"), "is no cron rule"),
    ("too few fields", cron("* * * *"), "write five fields"),
    ("too many fields", cron("* * * * * * *"), "write five fields"),
    ("minute 60", cron("60 * * * *"), "Bad minute"),
    ("a word", cron("often"), "is no cron rule"),
    ("nothing", cron(""), "is no cron rule"),
    ("what cannot be combined", cron("0 0 * * 5L/2"), "Bad day-of-week"),
    ("a number without end", cron("9" * 240 + " * * * *"), "is no cron rule"),
    ("no zone", cron("* * * * *", "Mars/Olympus"), "'Mars/Olympus' is no time zone"),
    ("a folder of zones", cron("* * * * *", "Europe"), "'Europe' is no time zone"),
    ("a path", cron("* * * * *", "../../etc/passwd"), "is no time zone"),
    ("an instant without offset", Schedule(name="tick", at="2026-01-01T00:00:00"), "it has no offset"),
    ("no instant", Schedule(name="tick", at="tomorrow"), "write it as 2026-11-20T10:00:00Z"),
    ("an end before it begins", cron("0 0 1 1 *", start="2026-01-02T00:00Z", end="2026-12-31T00:00Z"), "never comes"),
]


@pytest.mark.parametrize(("schedule", "sentence"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_rule_that_names_no_instant_is_refused_with_what_to_write(schedule, sentence):
    with pytest.raises(ScheduleRuleError) as refused:
        check_rule(schedule)
    assert sentence in refused.value.message
    assert refused.value.word == "schedule_rule_invalid"


@given(st.text(alphabet="0123456789*/-,#LW? monfrijan", max_size=40))
def test_any_text_is_a_rule_or_refused_as_one(text):
    try:
        due = next_due(cron(text), 0.0, anchor=0.0)
    except ScheduleRuleError as error:
        due, refused = None, error.message
    else:
        refused = ""
    assert refused.startswith("schedule 'tick': ") or due is None or due > 0


FIELDS = st.tuples(
    st.sampled_from(["*", "0", "*/20", "45", "15,45", "0-10/5"]),
    st.sampled_from(["*", "0", "1", "2", "1-3", "*/2", "23"]),
    st.sampled_from(["*", "1-20", "L"]),
    st.sampled_from(["*", "3,4", "10-11"]),
    st.sampled_from(["*", "sun", "mon#1"]),
).map(" ".join)
# Near the changes of 2026 and 2018, where all that is difficult happens.
CHANGED = (
    *("2026-02-14", "2026-03-07", "2026-03-21", "2026-03-28", "2026-04-04"),
    *("2026-10-03", "2026-10-24", "2026-10-31", "2018-02-17", "2018-11-03"),
)
NEAR = st.sampled_from([at(f"{day}T00:00Z") for day in CHANGED])


def matches(rule, wall):
    """Whether a repeating rule names this local minute, said in another way than the scheduler's."""
    from cronsim import CronSim

    return next(CronSim(rule, wall - timedelta(minutes=1))) == wall


@settings(max_examples=60, deadline=None)
@given(FIELDS, st.sampled_from(ZONES), NEAR, st.integers(0, 3 * 86_400))
def test_the_next_instant_is_later_and_none_between_is_left_out(rule, zone, day, into):
    after = day + into
    due = next_due(cron(rule, zone), after, anchor=0)
    assert due is not None
    assert due > after
    minute, hour = rule.split()[:2]
    repeats = minute.startswith("*") or hour.startswith("*")
    between = after + 60 - after % 60
    while between < min(due, after + 86_400):
        wall = datetime.fromtimestamp(between, ZoneInfo(zone))
        # A rule with a time of day has fired already where the clock shows a time for the second time.
        assert not matches(rule, wall.replace(tzinfo=None, fold=0)) or (wall.fold and not repeats)
        between += 60
    if repeats:
        assert matches(rule, datetime.fromtimestamp(due, ZoneInfo(zone)).replace(tzinfo=None, fold=0))


@settings(max_examples=100, deadline=None)
@given(FIELDS, st.sampled_from(ZONES), NEAR, st.floats(0, 3 * 86_400))
def test_asking_from_each_instant_anew_is_the_same_as_going_on(rule, zone, day, into):
    going_on = list(islice(instants(cron(rule, zone), day + into, anchor=0), 6))
    asked, after = [], day + into
    for _ in range(6):
        after = next_due(cron(rule, zone), after, anchor=0)
        asked.append(after)
    assert asked == going_on
    assert all(before < following for before, following in pairwise(asked))


@given(st.floats(1, 1e7), st.floats(0, 4e9), st.floats(0, 4e9))
def test_an_interval_is_later_and_leaves_none_out_however_it_is_rounded(every, anchor, after):
    due = next_due(Schedule(name="tick", every=every), after, anchor=anchor)
    assert due > after
    number = round((due - anchor) / every)
    assert due == anchor + number * every
    assert anchor + (number - 1) * every <= after


def test_an_interval_counts_from_its_start_and_ends_with_its_end():
    schedule = Schedule(name="tick", every=3600, start="2026-01-01T00:30:00Z", end="2026-01-01T02:30:00Z")
    found = instants(schedule, at("2025-12-31T12:00Z"), anchor=schedule.starts_at)
    assert [written(one)[11:16] for one in found] == ["00:30", "01:30", "02:30"]


def test_a_cron_rule_has_its_first_instant_at_the_start_and_its_last_at_the_end():
    schedule = cron("0 * * * *", start="2026-01-01T02:00:00+01:00", end="2026-01-01T03:00:00Z")
    found = instants(schedule, at("2025-12-31T12:00Z"), anchor=0)
    assert [written(one)[11:16] for one in found] == ["01:00", "02:00", "03:00"]


def test_one_instant_comes_due_once():
    schedule = Schedule(name="tick", at="2026-01-01T02:00:00+01:00")
    assert next_due(schedule, at("2026-01-01T00:59:59Z"), anchor=0) == at("2026-01-01T01:00:00Z")
    assert next_due(schedule, at("2026-01-01T01:00:00Z"), anchor=0) is None


def test_an_interval_that_leaves_the_calendar_comes_due_no_more():
    assert next_due(Schedule(name="tick", every=1e12), at("2026-01-01T00:00Z"), anchor=at("2026-01-01T00:00Z")) is None


def test_a_rule_that_is_rare_is_found_across_many_changes_of_the_clock():
    rule = CronRule("*/30 12 29 2 mon#5", "Europe/Berlin")  # any Monday that is the month's fifth, or the leap day
    first = next(rule.after(at("2026-03-01T00:00Z")))
    assert datetime.fromtimestamp(first, ZoneInfo("Europe/Berlin")).strftime("%F %H:%M") == "2028-02-29 12:00"


@given(st.text("abc/", min_size=1, max_size=12), st.integers(0, 4_000_000_000), st.floats(0.001, 86_400))
def test_jitter_holds_a_firing_back_by_a_time_of_its_own_that_is_always_the_same(schedule, due, jitter):
    dispatched = dispatch_at(schedule, due, jitter)
    assert due <= dispatched < due + jitter
    assert dispatch_at(schedule, due, jitter) == dispatched


def test_jitter_spreads_the_schedules_of_one_minute():
    dispatched = [dispatch_at(f"p{n}/tick", 1_800_000_000, 60) - 1_800_000_000 for n in range(1000)]
    in_each_ten_seconds = [sum(low <= one < low + 10 for one in dispatched) for low in range(0, 60, 10)]
    assert min(in_each_ten_seconds) > 100


def test_without_jitter_a_firing_is_not_held_back():
    assert dispatch_at("p/tick", 1_800_000_000.25, 0) == 1_800_000_000.25
