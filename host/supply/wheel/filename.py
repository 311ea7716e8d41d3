"""The file name of a wheel, read within bounds.

A compressed tag set stands for every combination of what its dots join (PEP 425), so a name of a kilobyte stands for
hundreds of millions of tags, and whoever lets a parser write them all out is busy for minutes.
"""

from __future__ import annotations

from math import prod
from typing import Final, NamedTuple

from packaging.tags import Tag, parse_tag
from packaging.utils import BuildTag, InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

MAX_FILENAME: Final = 255
MAX_TAGS: Final = 256
"""Six times as many as the wheels with the most of them have."""


class WheelFilename(NamedTuple):
    """The parts of a wheel's file name; `name` is normalised."""

    name: str
    version: Version
    build: BuildTag
    tags: frozenset[Tag]


def parse_filename(filename: str) -> WheelFilename:
    """The parts of a wheel's file name, in bounded time.

    Raises:
        InvalidWheelFilename: it is none, is longer than a file's name can be, or stands for too many tags.
    """
    check_bounds(filename)
    if not filename.isprintable():
        raise InvalidWheelFilename("it holds characters that cannot be shown")
    return WheelFilename(*parse_wheel_filename(filename))


def check_bounds(filename: str) -> None:
    """Refuse a name that a parser should not even see.

    Raises:
        InvalidWheelFilename: it is longer than a file's name can be, or stands for too many tags.
    """
    if len(filename) > MAX_FILENAME:
        raise InvalidWheelFilename(f"it has {len(filename)} characters; {MAX_FILENAME} are allowed")
    if _count("-".join(filename.rsplit("-", 3)[1:])) > MAX_TAGS:
        raise InvalidWheelFilename(f"it stands for more than {MAX_TAGS} tags")


def parse_tags(text: str) -> frozenset[Tag]:
    """The tags that one line of a wheel's metadata stands for, in bounded time.

    Raises:
        ValueError: it is no tag set, or one of too many.
    """
    if len(text) > MAX_FILENAME or _count(text) > MAX_TAGS:
        raise ValueError(f"a line of tags has at most {MAX_FILENAME} characters and stands for at most {MAX_TAGS}")
    return parse_tag(text)


def _count(tags: str) -> int:
    """How many tags a compressed tag set stands for."""
    return prod(part.count(".") + 1 for part in tags.split("-"))
