"""What went wrong in one plugin's keeper, and when it tries again: soon, and later each time, up to a minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from host.errors import BusbarError, ErrorKind, printable, shortened
from host.storage.errors import StorageBusyError, StorageFailedError
from plugin_sdk.clock import Clock

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
"""Long enough to cost nothing, short enough that nobody need come and start a plugin by hand."""
MAX_REASON: Final = 1_000
"""Characters of what an error that nobody foresaw says."""
_PASSING: Final = frozenset({ErrorKind.BUSY, ErrorKind.UNAVAILABLE, ErrorKind.TIMEOUT, ErrorKind.INTERNAL})


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a plugin is not as it is wanted.

    Attributes:
        cause: A code where there is one, or a few words.
        reason: What was raised.
        since: When it began, in seconds since the epoch.
        again_at: When it is tried again, the same.
        of_the_machine: The machine refused, which says nothing of the plugin.
    """

    cause: str
    reason: str
    since: float
    again_at: float
    of_the_machine: bool


class BackOff:
    """When to try again what failed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._due = 0.0
        self.trouble: Trouble | None = None

    def failed(self, error: Exception) -> float:
        """It failed once more; how many seconds to wait."""
        wait = min(FIRST_SECONDS * 2.0 ** min(self._failures, 32), LONGEST_SECONDS)
        self._failures += 1
        self._due = self._clock.monotonic() + wait
        now = self._clock.now().timestamp()
        self.trouble = Trouble(
            cause=error.word if isinstance(error, BusbarError) else "unforeseen error",
            reason=sentence(error),
            since=now if self.trouble is None else self.trouble.since,
            again_at=now + wait,
            of_the_machine=isinstance(error, StorageFailedError | StorageBusyError),
        )
        return wait

    def succeeded(self) -> None:
        """It did not fail any more."""
        self._failures = 0
        self.trouble = None

    @property
    def seconds(self) -> float | None:
        """Until it is to be tried again; None where nothing failed. A clock that is set does not change it."""
        return None if self.trouble is None else max(0.0, self._due - self._clock.monotonic())


def passes(error: Exception) -> bool:
    """Whether trying again may help: not where a rule refuses what is wanted."""
    return not isinstance(error, BusbarError) or error.kind in _PASSING


def sentence(error: BaseException) -> str:
    """What an error says, fit to be shown; of several that ended a group, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BusbarError):
        return error.message
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return printable(shortened(text, MAX_REASON))
