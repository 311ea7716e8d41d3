"""Why a runtime ended, in words."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitReason:
    """`cause` is one of a few words for programs, `evidence` a sentence for people."""

    cause: str
    evidence: str


def decode(status: int | None, killed_for: str) -> ExitReason:
    """The reason behind an exit status (negative: the signal), or None where the status is unknown.

    `killed_for` is why the host itself killed the worker, or empty.
    """
    if killed_for:
        return ExitReason(killed_for.partition(":")[0], killed_for)
    if status is None:
        return ExitReason("fork server ended", "the worker ended with the fork server")
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return ExitReason("signal", f"the worker was ended by {name}")
    if status == 0:
        return ExitReason("exit", "the worker ended by itself with status 0")
    return ExitReason("exit", f"the worker ended with status {status}")
