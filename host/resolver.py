"""Names to addresses, for all that runs in the host's process: plugins' ways out, and the host's own HTTP clients.

It stands below every folder because both the broker of plugins and the clients of indexes need it. Nobody calls
`getaddrinfo` beside it: that blocks a thread for as long as a name server is silent, the threads are few and shared by
all, and a process cannot end before they do. Here a look-up holds a socket and a timer of its own on the loop, is
cancelled like any task, and shares nothing with another look-up, neither a cache nor what was learned of a server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

import pycares
from aiohttp.abc import AbstractResolver, ResolveResult

RESOLVE_SECONDS: Final = 10.0
"""How long a look-up may take in all; how long each server is waited for, `resolv.conf` says."""
MAX_ADDRESSES: Final = 16
"""Addresses of one name that are answered: whoever owns a name may list thousands."""
MAX_AT_ONCE: Final = 16
"""Look-ups at once of one client of the host's own."""
_SHORTEST_TICK: Final = 0.01
"""Seconds; c-ares may say that a time is up when it is by less than its clock's grain."""
_LOOPBACK_NAME: Final = "localhost"


class NameNotResolvedError(OSError):
    """A name has no address, or nobody said in time. An `OSError`, as clients of sockets expect of it."""


class Resolver:
    """Asks the name servers of the machine, after its `hosts` file: as `resolv.conf` and `nsswitch.conf` say now.

    Args:
        nameservers: Which to ask instead, as `address` or `address:port`.
    """

    def __init__(self, nameservers: Sequence[str] = ()) -> None:
        self._nameservers = tuple(nameservers)

    async def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[str]:
        """The addresses of a name, best first, at most `MAX_ADDRESSES`; an address is its own answer.

        Raises:
            NameNotResolvedError: it has none, is no name, or `RESOLVE_SECONDS` were not enough.
        """
        if host.rstrip(".").lower() == _LOOPBACK_NAME:
            host = _LOOPBACK_NAME  # c-ares would ask a server about the one with a dot (RFC 6761, section 6.3)
        try:
            lookup = _Lookup(self._nameservers)
        except pycares.AresError as error:
            raise NameNotResolvedError(f"no look-up can be begun: {error}") from None
        try:
            lookup.ask(host, port, family)
            async with asyncio.timeout(RESOLVE_SECONDS):
                return await lookup.answer
        except TimeoutError:
            raise NameNotResolvedError(f"no answer within {RESOLVE_SECONDS:g} s") from None
        finally:
            lookup.close()


class ClientResolver(AbstractResolver):
    """The resolver as a client session of aiohttp takes it; one for a session, which bounds its look-ups at once."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name, as aiohttp connects to them; errors as in `Resolver.resolve`."""
        async with self._turns:
            addresses = await self._resolver.resolve(host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing stays open between two look-ups."""


class _Lookup:
    """One question to the name servers. `answer` is set once; `close` gives it up and frees what it holds."""

    def __init__(self, nameservers: tuple[str, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[list[str]] = self._loop.create_future()
        self._watched: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._channel = pycares.Channel(sock_state_cb=self._watch, servers=nameservers or None)

    def ask(self, host: str, port: int, family: int) -> None:
        """Send the question; what cannot even be sent is the answer, too."""
        if not host or "\0" in host:
            self._fail("it is no name")  # c-ares would ask about what stands before the NUL
            return
        try:
            self._channel.getaddrinfo(
                host,
                port,
                family=socket.AddressFamily(family),
                type=socket.SOCK_STREAM,
                callback=self._answered,
            )
        except (pycares.AresError, ValueError) as error:  # UnicodeError is one: a name that cannot be encoded
            self._fail(f"it is no name that can be asked about: {error}")
        self._wait()

    def close(self) -> None:
        """Give the question up, if it is not answered."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        self._channel.cancel()
        self._channel.close()
        del self._channel  # which knows this object: they would wait for the garbage collector together
        if not self.answer.done():
            self.answer.cancel()

    # -- inside; c-ares calls back in the course of the calls that are made to it

    def _answered(self, found: pycares.AddrInfoResult | None, error: int | None) -> None:
        if self.answer.done():
            return
        if found is None:
            self._fail("no answer" if error is None else str(pycares.errno.strerror(error)))
            return
        addresses = dict.fromkeys(node.addr[0].decode("ascii") for node in found.nodes)
        self.answer.set_result(list(addresses)[:MAX_ADDRESSES])

    def _fail(self, why: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(NameNotResolvedError(why))

    def _watch(self, descriptor: int, readable: bool, writable: bool) -> None:
        if self._closed:
            return  # of what is freed after the end, in a thread of pycares
        try:
            self._watched.add(descriptor)
            if readable:
                self._loop.add_reader(descriptor, self._process, descriptor, pycares.ARES_SOCKET_BAD)
            else:
                self._loop.remove_reader(descriptor)
            if writable:
                self._loop.add_writer(descriptor, self._process, pycares.ARES_SOCKET_BAD, descriptor)
            else:
                self._loop.remove_writer(descriptor)
            if not readable and not writable:
                self._watched.discard(descriptor)
        except (OSError, RuntimeError) as error:  # which would be lost on its way through c-ares
            self._fail(f"its socket cannot be watched: {error}")

    def _process(self, readable: int, writable: int) -> None:
        self._channel.process_fd(readable, writable)
        self._wait()

    def _wait(self) -> None:
        """Look again when c-ares would give a server up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.answer.done():
            seconds: float = self._channel.timeout()  # type: ignore[no-untyped-call]  # its one method without types
            self._timer = self._loop.call_later(
                max(seconds, _SHORTEST_TICK), self._process, pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD
            )
