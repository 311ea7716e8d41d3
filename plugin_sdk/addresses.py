"""Which IP addresses are of the public internet: what both a host's broker and a plugin's own checks go by."""

from __future__ import annotations

import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_INSIDE: Final = (
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 of one's own network (RFC 8215)
    ipaddress.IPv6Network("fec0::/10"),  # site-local (RFC 3879); deprecated, and routed where it still is
    ipaddress.IPv6Network("5f00::/16"),  # segment routing (RFC 9602)
)
"""What the standard library of Python 3.11 takes for global, and is not."""


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet.

    Private, loopback, link-local (where clouds keep their metadata), shared, reserved and multicast ones are not.
    An IPv6 address that stands for an IPv4 one is judged as that.
    """
    found = standing_for(address)
    if any(found in network for network in _INSIDE):
        return False
    return found.is_global and not found.is_multicast


def standing_for(address: Address) -> Address:
    """The IPv4 address that an IPv6 one is a way of writing or of reaching; any other address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):  # not :: and ::1
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
