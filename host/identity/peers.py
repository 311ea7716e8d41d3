"""Who a peer counts as, where something is counted by address."""

from __future__ import annotations

import ipaddress
from typing import Final

UNKNOWN: Final = "unknown"
"""A peer without an address, which only a connection that has gone already is."""
_SUBSCRIBER: Final = 64
"""Bits of an IPv6 address that name a network; whoever has one has all 2^64 addresses in it."""


def counted_as(remote: str | None) -> str:
    """What the address of a peer counts as: an IPv4 address as itself, an IPv6 address as its /64 network."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, _SUBSCRIBER), strict=False))
        address = address.ipv4_mapped
    return str(address)
