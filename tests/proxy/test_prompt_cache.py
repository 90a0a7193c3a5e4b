"""proxy/prompt_cache.py: what comes back is marked, what is new is not, and a client's own marks stand alone."""
from __future__ import annotations

import json
from typing import Any

import pytest

from farthing import semconv
from farthing.prices import Usage
from farthing.prices_own import own_price
from farthing.settings import PriceOverride
from proxy.cache_counts import PromptCounts
from proxy.formats.messages import Messages
from proxy.prompt_cache import breakpoints
from tests.proxy.rig import Rig, answers
from tests.proxy.test_caching import level
from tests.proxy.test_formats import MESSAGE

MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
TOOLS: list[Any] = [{"name": name, "input_schema": {"type": "object"}} for name in ("f", "g")]
THOUGHT = {"type": "thinking", "thinking": "x", "signature": "s"}


def turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def marked(**fields: Any) -> dict[str, Any]:
    body = {"model": "claude", "max_tokens": 9, "messages": [turn("user", "hi")]} | fields
    return breakpoints(Messages().read(json.dumps(body).encode()), "5m")


def test_tools_system_and_history_are_marked_at_their_ends() -> None:
    history = [turn("user", "one"), turn("assistant", [{"type": "text", "text": "two"}, THOUGHT]), turn("user", "new")]
    made = marked(tools=TOOLS, system="be brief", messages=history)
    assert made["tools"] == [TOOLS[0], TOOLS[1] | {"cache_control": MARK}]
    assert made["system"] == [{"type": "text", "text": "be brief", "cache_control": MARK}]
    kept = [{"type": "text", "text": "two", "cache_control": MARK}, THOUGHT]
    assert made["messages"] == [history[0], turn("assistant", kept), history[2]]
    assert json.dumps(made).count("cache_control") == 3


@pytest.mark.parametrize("fields", [
    {"system": [{"type": "text", "text": "x", "cache_control": MARK}], "tools": TOOLS},
    {"messages": [turn("user", [{"type": "text", "text": "x", "cache_control": MARK}])], "system": "s"},
    {"cache_control": MARK, "system": "s"},
    {},
    {"system": " ", "tools": []},
    {"messages": [turn("assistant", [THOUGHT]), turn("user", "new")]},
    {"messages": [turn("assistant", [{"type": ["text"], "text": "x"}, 5]), turn("user", "new")], "system": [5]},
])  # fmt: skip
def test_nothing_is_marked_that_the_client_marked_itself_or_that_takes_no_mark(fields: dict[str, Any]) -> None:
    assert marked(**fields) == {}


def test_a_text_that_only_speaks_of_marks_is_none() -> None:
    assert marked(system='set "cache_control" yourself') != {}


def test_a_policy_has_the_provider_keep_prompts_and_the_row_says_what_it_wrote_and_read(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, exact=False, embeddings=False, prompt_ttl="1h")
    used = {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 5,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2}}  # fmt: skip
    rig.upstream.next(answers(json.dumps(MESSAGE | {"usage": used}).encode()))
    with rig.claude(team) as client:
        client.messages.create(
            model="claude", max_tokens=20, system="be brief", tools=TOOLS, messages=[{"role": "user", "content": "hi"}]
        )
    (received,) = rig.upstream.received
    assert received.json["system"] == [{"type": "text", "text": "be brief", "cache_control": HOUR}]
    assert received.json["tools"][-1]["cache_control"] == HOUR
    assert received.json["messages"] == [{"role": "user", "content": "hi"}]
    span = rig.span(team)
    assert (span[semconv.USAGE_CACHE_READ_TOKENS], span[semconv.CACHE_WRITE_1H_TOKENS]) == (4, 2)
    assert semconv.CACHE_HIT not in span
    counted = level(rig, team, "prompt")
    assert (counted["hits"], counted["misses"], counted["unpriced_hits"]) == (1, 0, 0)


def test_what_reading_a_kept_prompt_saves_and_what_writing_it_costs_are_told_apart() -> None:
    price = own_price(PriceOverride("anthropic", "claude", "10", "20", cache_read="1", cache_write="12.5",
                                    cache_write_1h="20"))  # fmt: skip
    counts = PromptCounts()
    counts.add(price, Usage(3, cache_write=100, output=5))
    assert (counts.reads, counts.misses, counts.read_nusd, counts.written_nusd) == (0, 1, 0, 250_000)
    counts.add(price, Usage(3, cache_read=100, cache_write_1h=10, output=5))
    assert (counts.reads, counts.misses, counts.read_nusd, counts.written_nusd) == (1, 1, 900_000, 350_000)
    counts.add(None, Usage(3, cache_read=1))
    assert (counts.reads, counts.unpriced) == (2, 1)
