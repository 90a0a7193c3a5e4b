"""farthing/servers.py: rules that cannot be used are refused with the value and what is allowed."""
from __future__ import annotations

import re

import pytest

from farthing.errors import SettingsError
from farthing.servers import providers, rules
from farthing.settings import Server


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (Server(), "names no address, service, provider or model"),
        (Server(address="  "), "names no address"),
        (Server(address="http://gateway.internal"), "'http://gateway.internal': write the host alone"),
        (Server(address="gateway.internal:4000"), "write the host alone, without scheme, port and path"),
        (Server(address="gateway.internal/v1"), "such as gateway.internal or"),
        (Server(service="a\nb"), "write it on one line"),
        (Server(service="a", billed_by=""), "billed_by = '': write the provider"),
        (Server(service="a", billed_by="open*"), '"\\*" for the one that the span names'),
    ],
)
def test_a_rule_that_cannot_be_used_is_named_with_what_is_allowed(server: Server, says: str) -> None:
    with pytest.raises(SettingsError, match=f"^servers.*{says}"):
        rules([server])


@pytest.mark.parametrize(
    ("server", "address", "fits"),
    [
        (Server("gateway.internal"), "gateway.internal", True),
        (Server("gateway.internal"), "Gateway.Internal", True),
        (Server("gateway.internal"), "http://gateway.internal:4000/v1", True),
        (Server("gateway.internal"), "a.gateway.internal", False),
        (Server("gateway.internal"), "gateway-internal", False),
        (Server("gateway.internal"), "gateway.internal.example.org", False),
        (Server("gateway.internal"), "http://example.org/gateway.internal", False),
        (Server("*.cluster.local"), "vllm.ml.svc.cluster.local", True),
        (Server("::1"), "http://[::1]:8000/v1", True),
        (Server(service="s*e"), "", True),
        (Server(service="other"), "", False),
        (Server(provider="gemini"), "", False),
        (Server(provider="OpenAI"), "", True),
        (Server(model="answered-*"), "", True),
        (Server(model="asked"), "", True),
        (Server(model="aske"), "", False),
        (Server(service="some service", model="gpt"), "", False),
    ],
)
def test_a_rule_fits_what_its_words_say(server: Server, address: str, fits: bool) -> None:
    (rule,) = rules([server])
    lines = "\n".join((address, "some service", "openai", "asked", "answered-1"))
    assert bool(re.search(rule.pattern, lines)) is fits


def test_a_provider_is_known_by_its_one_name() -> None:
    named = (Server("a", billed_by="Gemini"), Server("b", billed_by="*"), Server("c"), Server("d", billed_by="gemini"))
    assert providers(rules(named)) == ("gcp.gemini", "self-hosted")
