"""Cron rules in a time zone: which instants they name, at changes of the clock, too.

cronsim reads the rule and walks the calendar, in local time without a zone; what the zone makes of it is decided here,
as Debian's cron does. A rule with a fixed time of day fires once on every day it names: at the gap of spring right
after it, at the fold of autumn the first time. A rule that repeats through the hours (minute or hour begin with `*`)
follows the clock on the wall: not within a gap, and twice in a fold. cronsim's own way through a zone is not used, for
it leaves instants out where a zone changes by half an hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

DAY: Final = 86_400
_LONGEST_CHANGE: Final = 25 * 3600
"""Seconds by which a zone may change at once and a little more: islands have crossed the date line."""
_WITH_SECONDS: Final = 6
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - local time has no zone here


class CronRule:
    """A cron rule and its zone.

    Args:
        rule: Five fields, or six with seconds first.
        timezone: A name of the IANA database.

    Raises:
        ValueError: the rule is malformed, or the zone unknown; the message says which.
    """

    def __init__(self, rule: str, timezone: str) -> None:
        try:
            self._zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"'{timezone}' is no time zone that this host knows: write one of the IANA database, "
                "such as 'Europe/Berlin', or bring its time zone data up to date"
            ) from None
        self._rule = rule
        self._walk(_EPOCH)  # refuses a malformed rule
        fields = rule.split()
        minute, hour = fields[1:3] if len(fields) == _WITH_SECONDS else fields[0:2]
        self._repeats = minute.startswith("*") or hour.startswith("*")

    def after(self, after: float) -> Iterator[float]:
        """The instants strictly after `after` (seconds since the epoch), in order; ends after 50 years without one."""
        return self._repeating(after) if self._repeats else self._fixed(after)

    # -- a time of day

    def _fixed(self, after: float) -> Iterator[float]:
        begin = after
        if self._offset(after) > self._offset(after - _LONGEST_CHANGE):
            begin -= _LONGEST_CHANGE  # times that a gap took fire at its end, which is still to come or just passed
        last = after
        for local in self._walk(self._local(begin)):
            instant = self._resolved(local)
            if instant > last:
                yield instant
                last = instant

    def _resolved(self, local: datetime) -> float:
        """The instant of a local time: the first of two, or the end of the gap that it falls into."""
        instant = self._instant(local)
        if self._local(instant) == local:
            return instant
        local = local.replace(second=0)
        while self._local(instant) != local:
            local += timedelta(minutes=1)
            instant = self._instant(local)
        return instant

    # -- a time of every hour

    def _repeating(self, after: float) -> Iterator[float]:
        """Walk each stretch between two changes of the clock with the offset that it has."""
        last = math.floor(after)
        while True:
            offset = self._offset(last + 1)
            for local in self._walk(_EPOCH + timedelta(seconds=last + offset)):
                instant = _seconds(local) - offset
                # A rare rule need not look at every change on its way: nothing before the named local time can be
                # named, except where a change so near puts the clock back behind where it started.
                near = instant if instant <= last + 4 * DAY else last + 2 * DAY
                change = self._change(last + 1, near, offset)
                if change is not None:
                    moved = change - 1
                    break
                if near < instant:
                    moved = instant - 2 * DAY
                    break
                last = instant
                yield float(instant)
            else:
                return
            last = moved

    def _change(self, since: int, until: int, offset: int) -> int | None:
        """The first instant in `since < x <= until` whose offset is another; None where there is none."""
        low = since
        while low < until:
            high = min(low + DAY, until)
            if self._offset(high) != offset:
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
                return high
            low = high
        return None

    # -- local time and instants

    def _walk(self, local: datetime) -> Iterator[datetime]:
        """The local times after `local` that the rule names."""
        try:
            return iter(CronSim(self._rule, local))
        except CronSimError as error:
            raise ValueError(
                f"'{self._rule}' is no cron rule ({error}): write five fields, such as '0 8 * * mon'"
            ) from None

    def _offset(self, instant: float) -> int:
        return round(datetime.fromtimestamp(instant, self._zone).utcoffset().total_seconds())  # type: ignore[union-attr]  # aware

    def _local(self, instant: float) -> datetime:
        return datetime.fromtimestamp(math.floor(instant), self._zone).replace(tzinfo=None, fold=0)

    def _instant(self, local: datetime) -> float:
        return local.replace(tzinfo=self._zone).astimezone(UTC).timestamp()


def _seconds(local: datetime) -> int:
    return round((local - _EPOCH).total_seconds())
