"""Where a plugin may connect to: what a grant names, and which addresses are never reached by a name.

A name is resolved by the host, once, and the address that was checked is the address that is connected to; so a
name server that answers differently the second time (DNS rebinding) changes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_LOOPBACK_NAME: Final = "localhost"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Destinations:
    """The hosts and ports that one plugin is granted, each written `host:port` or `[address]:port`."""

    def __init__(self, granted: Iterable[str]) -> None:
        self._granted = {(normal(host), int(port)) for host, _, port in (one.rpartition(":") for one in granted)}

    def holds(self, host: str, port: int) -> bool:
        """Whether this host and port are granted, by the name or the address as it is asked for."""
        return (normal(host), port) in self._granted


def normal(host: str) -> str:
    """A host in the one way of writing it by which hosts are compared."""
    bare = host.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare


def reachable(address: str, host: str) -> bool:
    """Whether this address may be connected to for a granted host.

    An address of the public internet may. One that is private, loopback, link-local (where clouds keep their
    metadata), shared, reserved or multicast may only where the grant names that very address; loopback also where it
    names `localhost`. IPv6 addresses that stand for an IPv4 one are taken for that.
    """
    found = _standing_for(ipaddress.ip_address(address.partition("%")[0]))
    wanted = normal(host)
    if wanted in {address, str(found)}:
        return True
    if wanted == _LOOPBACK_NAME:
        return found.is_loopback
    return found.is_global and not found.is_multicast


def _standing_for(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
