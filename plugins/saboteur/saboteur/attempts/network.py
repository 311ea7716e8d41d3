"""Attempts on addresses and sockets."""

import os
import socket
from urllib.parse import urlsplit


def connect(target: str) -> str:
    """Connect to an address."""
    address, _, port = target.rpartition(":")
    with socket.create_connection((address, int(port)), timeout=2):
        return "connected"


def ask_door(target: str) -> str:
    """Ask the host's broker for a connection, and say what it answers."""
    door = urlsplit(os.environ["HTTPS_PROXY"])
    with socket.create_connection((door.hostname, door.port), timeout=1) as made:
        made.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode("latin-1"))
        return made.recv(4096).decode("latin-1").partition("\r\n")[0]


def connect_unix(target: str) -> str:
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(target)
        return "connected"


def datagram(target: str) -> str:
    """Send one packet."""
    address, _, port = target.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        return f"sent {made.sendto(b'sabotage', (address, int(port)))}"


def listen(target: str) -> str:
    """Listen on a port."""
    with socket.create_server(("0.0.0.0", int(target))):  # noqa: S104 - the point
        return "listening"
