"""Where a plugin may connect to: what a grant names, and which addresses are never reached by a name.

A name is resolved by the host, once, and the address that was checked is the address that is connected to; so a
name server that answers differently the second time (DNS rebinding) changes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from plugin_sdk.addresses import is_public, standing_for

_LOOPBACK_NAME: Final = "localhost"
_ANY: Final = "*"


class Destinations:
    """The hosts and ports that one plugin is granted, each written `host:port` or `[address]:port`.

    `*:443` grants that port of every public address, by whatever name; `*:*` every port of them.
    """

    def __init__(self, granted: Iterable[str]) -> None:
        split = (one.rpartition(":") for one in granted)
        self._granted = {(normal(host), port if port == _ANY else str(int(port))) for host, _, port in split}

    def holds(self, host: str, port: int) -> bool:
        """Whether this host and port are granted, by the name or the address as it is asked for."""
        wanted = normal(host)
        if (wanted, str(port)) in self._granted:
            return True
        return not self._granted.isdisjoint({(_ANY, str(port)), (_ANY, _ANY)}) and _maybe_public(wanted)


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
    found = standing_for(ipaddress.ip_address(address.partition("%")[0]))
    wanted = normal(host)
    if wanted in {address, str(found)}:
        return True
    if wanted == _LOOPBACK_NAME:
        return found.is_loopback
    return is_public(found)


def _maybe_public(wanted: str) -> bool:
    """Whether a host may stand behind a wildcard: a public address, or a name, whose addresses are judged later."""
    try:
        return is_public(ipaddress.ip_address(wanted))
    except ValueError:
        return wanted != _LOOPBACK_NAME
