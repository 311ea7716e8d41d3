"""The root of every error of the host: a stable code, a kind, and a sentence that tells how to mend it.

Sentences quote what was refused, and that is chosen by whoever sent it: names, versions, what a plugin raised. So
every sentence is made `printable` here, once, and whoever shows or logs one need not think of it.

Each folder has its own base class below `BusbarError`; `host.api` turns any of them into an HTTP
answer and `host.cli` into an exit code, by `kind` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, Final

MAX_SENTENCE: Final = 4_000
"""Characters of a sentence: it quotes what was refused, of which there may be megabytes."""
MAX_NAME: Final = 200
"""Characters that are shown of a name which somebody else has chosen."""


class ErrorKind(Enum):
    """What sort of failure it is; the HTTP status that belongs to it is its value."""

    INVALID = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    CONFLICT = 409
    TOO_LARGE = 413
    UNSUPPORTED = 415
    UNPROCESSABLE = 422
    BUSY = 429
    INTERNAL = 500
    UPSTREAM = 502
    UNAVAILABLE = 503
    TIMEOUT = 504


class BusbarError(Exception):
    """An error with a stable machine-readable `code`, fit to be shown to the person who caused it.

    Its sentences hold no control characters and are of bounded length, whatever they quote.

    Args:
        message: One sentence: what is wrong and how to mend it.
        errors: Further sentences, one for each thing wrong, where there are several.
        retry_after: Seconds after which the same request may succeed; None where waiting does not help.
        code: A narrower code than the class's own.
    """

    code: ClassVar[str] = "internal_error"
    kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        errors: Sequence[str] = (),
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        self.message = printable(shortened(message, MAX_SENTENCE))
        super().__init__(self.message)
        self.errors = tuple(printable(shortened(sentence, MAX_SENTENCE)) for sentence in errors)
        self.retry_after = retry_after
        self.word = code or type(self).code


def printable(text: str) -> str:
    r"""The text with every character that drives a terminal, a log or a page written as an escape: `\x1b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shortened(text: str, limit: int = MAX_NAME) -> str:
    """The text as it is kept or shown where nobody bounds it before: its first `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"
