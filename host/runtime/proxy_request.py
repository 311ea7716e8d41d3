"""The head of a request to the egress broker: read strictly, before anything is resolved or connected to.

It speaks `CONNECT` (RFC 9110, section 9.3.6) and, for plain `http`, requests in absolute form (RFC 9112, section
3.2.2). Whatever is not plainly one of them is refused with a reason; nothing is mended, for what is mended here could
be understood otherwise there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

MAX_HEAD: Final = 8 * 1024
"""Bytes of a request's head."""
MAX_NAME: Final = 253
"""Characters of a host name; the 255 bytes of RFC 1035, section 2.3.4, as they are written."""
MAX_LABEL: Final = 63
_MAX_SHOWN: Final = 80

_HEAD: Final = re.compile(rb"([A-Z]{3,16}) ([\x21-\x7e]{1,2048}) HTTP/1\.[01]\r\n((?:[^\s\0][^\r\n\0]*\r\n)*)\r\n")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]@]*\]|[^\[\]:@]*):([0-9]{1,5})")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)((?:/[^?#]*)?(?:\?[^#]*)?)(?:#.*)?")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_OWN_HEADERS: Final = (b"proxy-", b"connection:", b"keep-alive:", b"host:")
_HTTP_PORT: Final = 80


class RefusedError(Exception):
    """A request that is answered with a status, a code and a sentence."""

    def __init__(self, status: str, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """Where a connection shall go. `rest` is what goes on to the other side first, where it is no tunnel.

    `host` is a name as it was written, or an address; an IPv6 one without its brackets.
    """

    host: str
    port: int
    rest: bytes

    @property
    def target(self) -> str:
        """Host and port as a grant names them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_request(raw: bytes) -> ProxyRequest:
    """Read a request's head, up to and with its empty line.

    Raises:
        RefusedError: `malformed`; `name_invalid`, a host that no name server can be asked about; `address_refused`,
            an address that is not written as one.
    """
    match = _HEAD.fullmatch(raw)
    if match is None:
        raise malformed()
    method, target, headers = match[1], match[2].decode("ascii"), match[3]
    if method == b"CONNECT":
        host, port = _authority(target)
        return ProxyRequest(host, port, b"")
    return _absolute(method, target, headers)


def malformed(why: str = "this is a proxy: ask it by CONNECT host:port") -> RefusedError:
    """The refusal of what is no request to a proxy."""
    return RefusedError("400 Bad Request", "malformed", why)


def _absolute(method: bytes, target: str, headers: bytes) -> ProxyRequest:
    """A plain `http` request, with its head as the other side expects it. One request, then the end."""
    url = _URL.fullmatch(target)
    if url is None or url[1].lower() != "http" or not url[2] or "@" in url[2]:
        raise malformed("write http://host/path, or use CONNECT for https")
    authority, path = url[2], url[3]
    if authority.endswith(":"):
        authority += str(_HTTP_PORT)  # as RFC 3986, section 3.2.3, has an empty port
    elif authority.endswith("]") or ":" not in authority:
        authority += f":{_HTTP_PORT}"
    host, port = _authority(authority)
    named = ProxyRequest(host, port, b"").target.removesuffix(f":{_HTTP_PORT}")
    lines = [
        b"%s %s HTTP/1.1" % (method, (path if path.startswith("/") else "/" + path).encode("ascii")),
        f"Host: {named}".encode("ascii"),
        *(line for line in headers.splitlines() if not line.lower().startswith(_OWN_HEADERS)),
        b"Connection: close",
    ]
    return ProxyRequest(host, port, b"\r\n".join(lines) + b"\r\n\r\n")


def _authority(written: str) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(written)
    if found is None:
        raise malformed()
    host, port = found[1], int(found[2])
    if not 0 < port < 2**16:
        raise malformed(f"{port} is no port: write one from 1 to 65535")
    if host.startswith("["):
        return _ipv6(host[1:-1]), port
    return _name(host), port


def _ipv6(written: str) -> str:
    try:
        if "%" in written:
            raise ValueError("a zone is a matter of one machine, and no host of a network")
        return str(ipaddress.IPv6Address(written))
    except ValueError:
        raise _invalid(f"[{written}]", "is no IPv6 address; write one without a zone") from None


def _name(host: str) -> str:
    """A host name (RFC 1123, section 2.1) as it was written, or an IPv4 address."""
    name = host.removesuffix(".")  # which says that it is the whole name
    labels = name.split(".")
    if len(name) > MAX_NAME:
        raise _invalid(host, f"is longer than the {MAX_NAME} characters of a name")
    for label in labels:
        if not label:
            raise _invalid(host, "has an empty label: write names with single dots")
        if len(label) > MAX_LABEL:
            raise _invalid(host, f"has a label of more than {MAX_LABEL} characters")
        if not _LABEL.fullmatch(label):
            raise _invalid(
                host, "is no host name: write letters, digits and inner hyphens, other scripts in their xn-- form"
            )
    if not _NUMBER.fullmatch(labels[-1]):
        return host
    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError:  # some resolvers read 127.1, 0x7f.1 and 2130706433 as addresses; no name ends in a number
        raise RefusedError(
            "403 Forbidden", "address_refused", f"{_shown(host)} is no name: write an address as 192.0.2.1"
        ) from None


def _invalid(host: str, why: str) -> RefusedError:
    return RefusedError("400 Bad Request", "name_invalid", f"{_shown(host)} {why}")


def _shown(host: str) -> str:
    return host if len(host) <= _MAX_SHOWN else host[:_MAX_SHOWN] + "…"
