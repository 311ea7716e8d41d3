"""Why a runtime ended, in words."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitReason:
    """`cause` is one of a few words for programs, `evidence` a sentence for people.

    `stack` is what the runtime wrote down at its end: the stacks of its threads, or its last words.
    """

    cause: str
    evidence: str
    stack: str = ""


def decode(status: int | None, killed_for: str, last_words: str = "") -> ExitReason:
    """The reason behind an exit status (negative: the signal), or None where the status is unknown.

    `killed_for` is why the host itself killed the worker, or empty; `last_words` the end of its standard error.
    """
    if killed_for:
        return ExitReason(killed_for.partition(":")[0], killed_for, last_words)
    if status is None:
        return ExitReason("fork server ended", "the worker ended with the fork server", last_words)
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        hint = ": perhaps the kernel was out of memory" if -status == signal.SIGKILL else ""
        return ExitReason("signal", f"the worker was ended by {name}{hint}", last_words)
    if status == 0:
        return ExitReason("exit", "the worker ended by itself with status 0", last_words)
    return ExitReason("exit", f"the worker ended with status {status}", last_words)
