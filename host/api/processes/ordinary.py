r"""Which requests an HTTP process serves: those that publish events, and are of the ordinary kind.

This is no reader of HTTP but a filter before one. It passes a head only where every line has the plainest form there
is, nothing stands in it that changes how the connection or the body is read, and the body's length is said once, in
digits. Whatever does not pass is not wrong: the host serves it, with the one parser that reads everything. A head that
passes is read by the same parser, in the process; that both take such a head alike is a test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from host.api.resources.publishing import BASE
from host.identity.access import Role, Token, TokenTable

START: Final = f"POST {BASE} HTTP/1.1\r\n".encode()
"""How such a request begins."""
MAX_ORDINARY: Final = 8 * 1024
"""Bytes of a head that is ordinary; far from the bounds of the parser."""
MAX_FIELDS: Final = 64
_END: Final = b"\r\n\r\n"
_FIELD: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t!-~]*\r\n"
_HEAD: Final = re.compile(re.escape(START) + rb"(?:" + _FIELD + rb"){1,%d}\r\n" % MAX_FIELDS)
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ ]?([0-9]{1,9})\r\n")
_SECRET: Final = re.compile(rb"\r\nauthorization:[ ]?bearer[ ]([!-~]+)\r\n", re.IGNORECASE)
_HOST: Final = b"\r\nhost:"
_OTHERWISE: Final = re.compile(
    rb"\r\n(?:transfer-encoding|te|trailer|upgrade|expect|http2-settings|proxy-[a-z-]+"
    rb"|connection:(?![ ]?keep-alive\r\n)[^\r]*|keep-alive)[: \t\r]"
)
"""Fields that change how a connection or a body is read, and a connection that is to end."""


@dataclass(frozen=True, slots=True)
class Ordinary:
    """A request that may be served by a process; `head` and `body` are in bytes."""

    head: int
    body: int
    secret: str


def ordinary(came: bytes) -> Ordinary | None:
    """What is known of a request of the ordinary kind whose head stands at the beginning; None for all others."""
    end = came.find(_END, 0, MAX_ORDINARY)
    if end < 0:
        return None
    head = came[: end + len(_END)]
    if _HEAD.fullmatch(head) is None:
        return None
    lower = head.lower()
    lengths, secrets = _LENGTH.findall(lower), _SECRET.findall(head)
    once = (b"\r\ncontent-length:", b"\r\nauthorization:", _HOST)
    if len(lengths) != 1 or len(secrets) != 1 or any(lower.count(name) != 1 for name in once):
        return None
    if _OTHERWISE.search(lower) is not None:
        return None
    return Ordinary(len(head), int(lengths[0]), secrets[0].decode())


class Judge:
    """Says of requests whether a process serves them: of the ordinary kind, with a token that may publish.

    Both sides ask one, so that what one hands over is not handed back.

    Args:
        tokens: That there are now.
        most: Bytes of the largest body there may be.
    """

    def __init__(self, tokens: TokenTable, most: int) -> None:
        self._tokens = tokens
        self._most = most

    def __call__(self, came: bytes) -> tuple[int, Token] | None:
        """The size of the request, head and body together, and its token; None where the host serves it."""
        found = ordinary(came)
        if found is None or found.body > self._most:
            return None
        token = self._tokens.find(found.secret)
        return (found.head + found.body, token) if token is not None and token.role.covers(Role.OPERATOR) else None
