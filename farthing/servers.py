"""Who bills a call, where that is not who its span names: rules of the user's own, as written in farthing.toml.

A rule becomes one expression over one text of all that it may ask for, which the view tries in the order of the rules.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from farthing.errors import SettingsError
from farthing.semconv import canonical_provider
from farthing.settings import Server

AS_NAMED = "*"  # billed by the provider that the span names
_ANY = r"[^\n]*"
_HOST = re.compile(r"[\w.*-]+|[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:]*")


class Rule(NamedTuple):
    """One server as the view looks for it."""

    pattern: str  # RE2, of the lines address, service, provider, model asked for, model that answered
    billed_by: str


def rules(servers: Iterable[Server]) -> list[Rule]:
    """Return the rules in their order.

    Raises:
        SettingsError: one cannot be used; the message names it and what is allowed.
    """
    return [_rule(server) for server in servers]


def providers(found: Sequence[Rule]) -> tuple[str, ...]:
    """Return who else than the providers that spans name may bill a call."""
    return tuple(dict.fromkeys(rule.billed_by for rule in found if rule.billed_by != AS_NAMED))


def _rule(server: Server) -> Rule:
    asked = {name: getattr(server, name).strip() for name in ("address", "service", "provider", "model")}
    if not any(asked.values()):
        raise SettingsError("servers: one names no address, service, provider or model; write one of them at least")
    for name, text in asked.items():
        if not text.isprintable():
            raise SettingsError(f"servers.{name} = {text!r}: write it on one line, without control characters")
    if asked["address"] and not _HOST.fullmatch(asked["address"]):
        raise SettingsError(
            f"servers.address = {asked['address']!r}: write the host alone, without scheme, port and path, such as "
            "gateway.internal or *.svc.cluster.local"
        )
    return Rule(_pattern(**asked), _billed_by(server.billed_by.strip()))


def _billed_by(told: str) -> str:
    if told == AS_NAMED:
        return told
    if not told or AS_NAMED in told:
        raise SettingsError(
            f"servers.billed_by = {told!r}: write the provider that the calls are booked under, such as openai or "
            f'self-hosted, or "{AS_NAMED}" for the one that the span names'
        )
    return canonical_provider(told)


def _pattern(address: str, service: str, provider: str, model: str) -> str:
    host = rf"(?:\w+://)?\[?{_words(address)}\]?(?::\d+)?(?:/{_ANY})?" if address else _ANY
    either = f"(?:{_words(model)}\\n{_ANY}|{_ANY}\\n{_words(model)})" if model else rf"{_ANY}\n{_ANY}"
    return r"\n".join((f"(?i)^{host}", _words(service), _words(canonical_provider(provider)), f"{either}$"))


def _words(text: str) -> str:
    return _ANY.join(re.escape(part) for part in text.split("*")) if text else _ANY
