"""What the bytes of a source file tell before anything parses them: its encoding, and what a reader would not see.

Runs in a child with the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

Note = tuple[str, str, int, str]
"""Rule, severity, line, message."""

_COOKIE: Final = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.ASCII)
_UTF8: Final = frozenset(
    {"utf-8", "utf8", "u8", "utf", "utf8-ucs2", "utf8-ucs4", "cp65001", "utf-8-sig", "ascii", "us-ascii"}
)
_BIDI: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028\u2029\u2060-\u2064\ufeff\U000e0000-\U000e007f]"
)
_OFF_SCREEN: Final = re.compile(r"[^\s#][ \t]{160,}[^\s#\\]")
_BOM: Final = b"\xef\xbb\xbf"


class UnreadableError(Exception):
    """A source file that is not UTF-8; the argument is a note."""


def decode(raw: bytes) -> str:
    """The text of a source file, as Python would read it, where that is UTF-8.

    Raises:
        UnreadableError: it declares another encoding, or is not what it declares.
    """
    body = raw.removeprefix(_BOM)
    # As the tokenizer does: any line ending ends a line. Stricter than it: it reads a second line's cookie only
    # where the first holds no code.
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", body, maxsplit=2)[:2], 1):
        cookie = _COOKIE.match(line)
        if cookie is not None:
            name = cookie[1].decode("ascii").lower().replace("_", "-")
            if name not in _UTF8:
                raise UnreadableError(
                    (
                        "source-encoding",
                        "high",
                        number,
                        f"declares the encoding {name}: only UTF-8 is read here as Python reads it",
                    )
                )
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise UnreadableError(("source-encoding", "high", line, "is not UTF-8")) from None


def notes(text: str) -> Iterator[Note]:
    """What a reader of the text would not see."""
    for match in _BIDI.finditer(text):
        yield (
            "bidi-control",
            "high",
            _line(text, match.start()),
            f"the control U+{ord(match[0]):04X} shows code in another order than it runs: write it as an escape",
        )
    for match in _INVISIBLE.finditer(text):
        yield (
            "invisible-character",
            "medium",
            _line(text, match.start()),
            f"the invisible character U+{ord(match[0]):04X}: write it as an escape",
        )
    lone = re.search(r"\r(?!\n)", text)
    if lone is not None:
        yield (
            "lone-carriage-return",
            "medium",
            _line(text, lone.start()),
            "a line ending that hides the line on a terminal",
        )
    for match in _OFF_SCREEN.finditer(text):
        yield (
            "off-screen",
            "medium",
            _line(text, match.start()),
            "code stands far to the right of what a screen shows",
        )


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
