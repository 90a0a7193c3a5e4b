"""Ports for servers that cannot be told to take any.

They lie below those that the system gives to outgoing connections and to servers that ask for any, and a process that
takes one keeps all others from it: between the choice and the use nobody else can come.
"""
from __future__ import annotations

import os
import socket

FIRST, COUNT = 20_000, 12_000
_taken = 0


def free_ports(count: int) -> list[int]:
    """Return different ports that are free, and nobody else's while this process lives."""
    return [free_port() for _ in range(count)]


def free_port() -> int:
    """Return a port that is free, and nobody else's while this process lives."""
    global _taken
    while _taken < COUNT:
        port = FIRST + (os.getpid() * 61 + _taken) % COUNT
        _taken += 1
        if _is_free(port) and _claim(port):
            return port
    raise AssertionError("every port is taken")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _claim(port: int) -> bool:
    """Take a name that the kernel gives to one process at a time."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0farthing-test-port-{port}")
    except OSError:
        claim.close()
        return False
    claim.detach()  # stays until the process ends
    return True
