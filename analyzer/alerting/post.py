"""POST to an address that somebody configured, and to no other: resolved once, checked, connected to, never redirected.

A webhook's URL is a way into the network that this process runs in. The address is checked after it was resolved and
the connection goes to that very address, so that a name which resolves differently the next time gains nothing.
"""
from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from farthing.errors import FarthingError

_TIMEOUT_S = 10.0
_SHOWN = 200  # bytes of a refusal that an error quotes


class DeliveryError(FarthingError):
    """A message was not taken; it is tried again."""


def post(url: str, body: bytes, headers: Mapping[str, str], allow_private: bool = False) -> None:
    """Send `body`; returns once the receiver has taken it.

    Raises:
        DeliveryError: the address is not allowed, nobody answers, or the answer is not 2xx.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # whose message would quote a part of the URL, which is a secret
        raise _unreadable() from None
    if parts.scheme not in ("http", "https") or not host:
        raise _unreadable()
    connection = _Pinned(host, port, _address(host, port, allow_private), parts.scheme == "https")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", path, body, dict(headers))
        response = connection.getresponse()
        answer = response.read(_SHOWN)
    except (OSError, http.client.HTTPException) as error:
        raise DeliveryError(f"{host}:{port}: {error}") from None
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        told = " (redirects are not followed)" if 300 <= response.status < 400 else ""
        raise DeliveryError(f"{host}:{port} answered {response.status}{told}: {answer.decode('utf-8', 'replace')}")


def _unreadable() -> DeliveryError:
    return DeliveryError("the channel's URL is not an http or https URL; mend the variable that url_env names")


def _address(host: str, port: int, allow_private: bool) -> str:
    """Return one address of `host`.

    Raises:
        DeliveryError: it has none, or one that is inside this network.
    """
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:  # the latter: no name of a host
        raise DeliveryError(f"{host}: {error}") from None
    inside = [one for one in found if not ipaddress.ip_address(one.partition("%")[0]).is_global]
    if inside and not allow_private:
        named = host if host == inside[0] else f"{host} ({inside[0]})"
        raise DeliveryError(f"{named} is inside this network; set allow_private = true on the channel")
    return found[0]


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was looked up before, under the host's own name."""

    def __init__(self, host: str, port: int, address: str, is_tls: bool) -> None:
        super().__init__(host, port, timeout=_TIMEOUT_S)
        self.default_port = 443 if is_tls else 80
        self._address = address
        self._is_tls = is_tls

    def connect(self) -> None:
        sock = socket.create_connection((self._address, self.port), _TIMEOUT_S)
        if self._is_tls:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
        self.sock = sock
