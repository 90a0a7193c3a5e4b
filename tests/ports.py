"""Ports for servers that cannot be told to take any."""
from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """Return different ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    return free_ports(1)[0]
