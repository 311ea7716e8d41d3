"""Trace ids: what a request is called in the log, in its answer, and by whoever asks about it."""

from __future__ import annotations

import random
import re
from typing import Final

from aiohttp import web

TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2."""
_numbers = random.Random()  # noqa: S311 - trace ids are no secrets


def trace_of(request: web.BaseRequest) -> str:
    """The trace id of a valid `traceparent`; else a new one."""
    parent = request.headers.get("traceparent")
    if parent:
        match = TRACEPARENT.fullmatch(parent)
        if match and match[1].strip("0") and match[2].strip("0"):
            return match[1]
    return new_trace()


def new_trace() -> str:
    """A trace id that nobody has.

    It is a version 4 UUID (RFC 9562, section 5.4), from a generator that costs no system call: it names, and keeps
    nothing.
    """
    digits = f"{_numbers.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
