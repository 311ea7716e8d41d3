"""Which URLs an endpoint may have: the guard against requests that are made to reach what is inside.

The host's broker judges the addresses that a name leads to, at every connection. This guard refuses, when an endpoint
is registered, what is wrong on its face. It reads the URL by one strict grammar, so that no other parser on the way
finds another host in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final

from plugin_sdk.addresses import is_public
from webhooks.errors import ApiError

MAX_URL: Final = 2000
MAX_HOST: Final = 253
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?]*)(?P<rest>(?:/[^?]*)?(?:\?.*)?)", re.ASCII
)
_AUTHORITY: Final = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_FORBIDDEN: Final = re.compile(r'[^\x21-\x7e]|["<>\\^`{|}#]')
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_INSIDE: Final = (".localhost", ".local", ".internal", ".intranet", ".lan", ".home.arpa")
_PORTS: Final = {"http": 80, "https": 443}


def checked_url(url: str, *, allow_private: bool, ports: Collection[int]) -> str:
    """The URL with scheme and host in lower case, where events may be sent there.

    Raises:
        ApiError: `url_invalid`, the sentence says what is wrong with it; or `url_refused`, where it leads inside.
    """
    if len(url) > MAX_URL or _FORBIDDEN.search(url):
        raise _invalid(f"a URL has at most {MAX_URL} characters of RFC 3986 and no fragment: percent-encode the others")
    match = _URL.fullmatch(url)
    scheme = "" if match is None else match["scheme"].lower()
    if match is None or scheme not in _PORTS:
        raise _invalid("write the URL in full, beginning with https:// or http://")
    if "@" in match["authority"]:
        raise _invalid("a URL here carries no user or password: put credentials into the endpoint's headers")
    authority = _AUTHORITY.fullmatch(match["authority"])
    port = 0 if authority is None else int(authority["port"] or _PORTS[scheme])
    if authority is None or not 0 < port < 2**16:
        raise _invalid("write a host name or an address after the scheme, and after that a port only from 1 to 65535")
    host = authority["host"].lower()
    public = _is_public_literal(host) if host.startswith("[") or _ends_in_a_number(host) else _is_outside_name(host)
    if not allow_private:
        if not public:
            raise _refused(f"{host} is inside or no public address: endpoints are on the public internet")
        if port not in ports:
            raise _refused(f"port {port} is not among those allowed: use one of {', '.join(map(str, sorted(ports)))}")
    shown = host if port == _PORTS[scheme] else f"{host}:{port}"
    return f"{scheme}://{shown}/{match['rest'].removeprefix('/')}"


def _ends_in_a_number(host: str) -> bool:
    """Whether parsers take the host for an IPv4 address (URL Standard, "ends in a number")."""
    return _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]) is not None


def _is_public_literal(host: str) -> bool:
    try:
        address = ipaddress.IPv6Address(host[1:-1]) if host.startswith("[") else ipaddress.IPv4Address(host)
    except ValueError:  # also what only some parsers read: 127.1, 2130706433, 0x7f.0.0.1, 0177.0.0.1
        raise _invalid(f"write the address {host} in full: four decimal numbers, or IPv6 in brackets") from None
    return is_public(address)


def _is_outside_name(host: str) -> bool:
    bare = host.removesuffix(".")
    labels = bare.split(".")
    if len(bare) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid(f"{host[:80]} is no host name")
    return len(labels) > 1 and not bare.endswith(_INSIDE)


def _invalid(message: str) -> ApiError:
    return ApiError(400, "url_invalid", message)


def _refused(message: str) -> ApiError:
    return ApiError(400, "url_refused", message)
