"""When a plugin wants to be called, and what becomes of the calls that cannot be made in time.

`Schedule` is a rule with its policies, as it crosses the wire and stands in the store; `ScheduleOptions` is what the
decorators take beside the rule.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypedDict, get_args

import msgspec

from plugin_sdk.errors import DescriptionError
from plugin_sdk.names import check_name

MAX_RULE: Final = 256
"""Characters of a cron rule."""
MAX_MISFIRES: Final = 1000
MAX_RUNNING: Final = 1000
MAX_RUNTIME: Final = 3600.0
MAX_DELAY: Final = 86_400.0
"""The longest `grace` and `jitter`, in seconds: a day."""

Misfire = Literal["skip", "once", "all"]
Overlap = Literal["allow", "skip", "queue", "cancel-previous"]


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When a firing comes due: exactly one of `cron`, `every` and `at`. Times are in seconds.

    Args:
        name: Its name in the plugin.
        cron: A rule of five or six fields (seconds first), Debian semantics.
        every: An interval; it counts from `start`, or from when the host first saw the schedule.
        at: One instant, RFC 3339.
        timezone: Of the cron rule, a name of the IANA database.
        misfire: What becomes of instants that were missed: none fires (`skip`), one firing stands for all that
            is due (`once`), or each fires (`all`).
        misfire_limit: How many firings may be made up for at one time, the newest; those before are skipped.
        grace: A firing later than this is missed, and `misfire` decides.
        overlap: What becomes of a firing while an earlier one is not settled: both run (`allow`), it is skipped
            (`skip`), it waits, one at most (`queue`), or the earlier one is cancelled (`cancel-previous`).
        max_running: With `allow`, how many firings may be unsettled at a time; one more is skipped.
        jitter: Firings are held back by up to so long, each by a time of its own that is always the same.
        start: No instant before this one (RFC 3339).
        end: No instant after this one (RFC 3339).
        max_runtime: How long the hook may take; None for the manifest's timeout.
    """

    name: str
    cron: str | None = None
    every: float | None = None
    at: str | None = None
    timezone: str = "UTC"
    misfire: Misfire = "once"
    misfire_limit: int = 10
    grace: float = 60.0
    overlap: Overlap = "allow"
    max_running: int = MAX_RUNNING
    jitter: float = 0.0
    start: str | None = None
    end: str | None = None
    max_runtime: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            DescriptionError: a value is outside its range; the sentence names it and the range.
        """
        check_name("schedule", self.name)
        try:
            self._check_rule()
            self._check_policies()
        except DescriptionError as error:
            raise DescriptionError(f"schedule '{self.name}'{error}") from None

    @property
    def rule(self) -> tuple[str | float | None, ...]:
        """What its instants hang on; two schedules that differ only in their policies have the same."""
        return (self.cron, self.every, self.at, self.timezone, self.start, self.end)

    @property
    def starts_at(self) -> float | None:
        """`start` in seconds since the epoch."""
        return None if self.start is None else instant_of(self.start)

    @property
    def ends_at(self) -> float | None:
        """`end` in seconds since the epoch."""
        return None if self.end is None else instant_of(self.end)

    def _check_rule(self) -> None:
        if sum(rule is not None for rule in (self.cron, self.every, self.at)) != 1:
            raise DescriptionError(" takes exactly one of cron, every and at")
        if self.cron is not None and len(self.cron) > MAX_RULE:
            raise DescriptionError(f": a cron rule has at most {MAX_RULE} characters")
        if self.every is not None and not 1 <= self.every < float("inf"):
            raise DescriptionError(": every must be at least 1 second")
        if self.at is not None and (self.start is not None or self.end is not None):
            raise DescriptionError(": one instant needs no start and no end, leave them out")
        for name, text in (("start", self.start), ("end", self.end)):
            if text is not None:
                try:
                    instant_of(text)
                except ValueError as error:
                    raise DescriptionError(
                        f": {name} is no instant ({error}): write it as 2026-11-20T10:00:00Z"
                    ) from None
        if self.starts_at is not None and self.ends_at is not None and self.ends_at < self.starts_at:
            raise DescriptionError(": end must not be before start")

    def _check_policies(self) -> None:
        for name, chosen, allowed in (
            ("misfire", self.misfire, get_args(Misfire)),
            ("overlap", self.overlap, get_args(Overlap)),
        ):
            if chosen not in allowed:
                words = ", ".join(f"'{word}'" for word in allowed)
                raise DescriptionError(f": {name} must be one of {words}, not '{chosen}'")
        for name, value, lowest, highest in (
            ("misfire_limit", self.misfire_limit, 1, MAX_MISFIRES),
            ("max_running", self.max_running, 1, MAX_RUNNING),
            ("grace", self.grace, 0, MAX_DELAY),
            ("jitter", self.jitter, 0, MAX_DELAY),
        ):
            if not lowest <= value <= highest:
                raise DescriptionError(f": {name} must be {lowest:g} to {highest:g}, not {value:g}")
        if self.max_runtime is not None and not 0 < self.max_runtime <= MAX_RUNTIME:
            raise DescriptionError(f": max_runtime must be above 0 and at most {MAX_RUNTIME:g} s")


class ScheduleOptions(TypedDict, total=False):
    """The policies of `Schedule` as the decorators take them."""

    name: str | None
    misfire: Misfire
    misfire_limit: int
    grace: float | timedelta
    overlap: Overlap
    max_running: int
    jitter: float | timedelta
    start: datetime | str | None
    end: datetime | str | None
    max_runtime: float | timedelta | None


def fields_of(options: ScheduleOptions) -> dict[str, Any]:
    """Options as fields of `Schedule`, without the name: spans as seconds, datetimes as text.

    Raises:
        DescriptionError: there is no such option.
    """
    strange = options.keys() - ScheduleOptions.__annotations__.keys()
    if strange:
        known = ", ".join(ScheduleOptions.__annotations__)
        raise DescriptionError(f"a schedule has no option '{min(strange)}': there are {known}")
    return {name: _plain(value) for name, value in options.items() if name != "name"}


def instant_of(text: str) -> float:
    """An instant in seconds since the epoch.

    Raises:
        ValueError: it is not RFC 3339, or says no offset.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("it has no offset")
    try:
        instant = found.astimezone(UTC).timestamp()
    except OverflowError:
        raise ValueError("it is outside the years 1 to 9999") from None
    if instant < 0:
        raise ValueError("it is before 1970")
    return instant


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else value
