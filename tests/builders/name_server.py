"""Name servers on loopback: one that answers what it is told to, and is silent about every other name."""

import asyncio
import contextlib
import ipaddress
import struct

A, AAAA = 1, 28


class NameServer(asyncio.DatagramProtocol):
    """Answers for the names in `known` (name to addresses); keeps which names it was asked about."""

    def __init__(self, known):
        self.known = known
        self.asked = []
        self._heard = asyncio.Event()

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, address):
        name, kind, end = _question(data)
        self.asked.append(name)
        self._heard.set()
        if name not in self.known:
            return
        found = [ipaddress.ip_address(one) for one in self.known[name]]
        records = [one.packed for one in found if one.version == {A: 4, AAAA: 6}.get(kind)]
        answer = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(one)) + one for one in records)
        header = data[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0)
        self._transport.sendto(header + data[12:end] + answer, address)

    async def heard(self, names):
        """Wait until so many different names were asked about."""
        while len(set(self.asked)) < names:
            self._heard.clear()
            await self._heard.wait()


@contextlib.asynccontextmanager
async def name_server(**known):
    """A name server, and the address it is at; names with dots are written with two underscores."""
    known = {name.replace("__", "."): addresses for name, addresses in known.items()}
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(known), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server, "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


def _question(data):
    """The name and type that are asked about, and where the question ends."""
    labels, at = [], 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode("ascii").lower())
        at += length + 1
    return ".".join(labels), struct.unpack("!H", data[at + 1 : at + 3])[0], at + 5
