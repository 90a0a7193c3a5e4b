"""What the demo's teams ask: questions that come back word for word, some long, some streamed, on two price tiers."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FULL, CHEAP = "smollm2-135m", "smollm2-135m-bf16"


@dataclass(frozen=True)
class DemoCall:
    """One call of one user."""

    team: str
    user: str
    feature: str
    session: str
    model: str
    prompt: str
    max_tokens: int
    stream: bool = False


_FAQ = (
    "How do I reset my password?",
    "Where can I download my invoice?",
    "How do I cancel my subscription?",
    "Which payment methods do you accept?",
)
_QUERIES = (
    "Rewrite as a search query: cheap flights from Berlin to Lisbon in May",
    "Rewrite as a search query: the film with the blue people on a moon",
    "Rewrite as a search query: why does my bread not rise",
)
_CAMPAIGNS = ("tea", "bicycles", "lamps", "boots", "kites", "violins")
_NOTES = (
    "The meeting began at nine. The team went through the incident of last week, in which a cache was emptied by a "
    "deployment and the database behind it could not take the load for eleven minutes. Three measures were agreed on: "
    "the cache is filled before traffic is moved, the number of connections is limited per service, and the alarm "
    "looks at the queue instead of the processor. Then the budget of the next quarter was discussed, where the cost of "
    "inference has grown by a third while the number of users has not. Nobody could say which product the growth came "
    "from, so every call is to carry the name of its team from now on. "
)


def everyday_calls() -> list[DemoCall]:
    """Return the calls of all teams, mixed as they would come."""
    support = [DemoCall("support", f"agent-{n % 3}", "faq", f"s-{n}", FULL, _FAQ[n % len(_FAQ)], 16) for n in range(16)]
    search = [
        DemoCall("search", f"shopper-{n}", "rewrite", f"q-{n}", CHEAP, _QUERIES[n % len(_QUERIES)], 12, stream=True)
        for n in range(12)
    ]
    growth = [
        DemoCall("growth", "mia", "copy", f"c-{n}", FULL, f"Write one line of advertising for {what}.", 16)
        for n, what in enumerate(_CAMPAIGNS)
    ]
    research = [
        DemoCall(
            "research",
            f"r-{n}",
            "summary",
            f"d-{n}",
            FULL,
            f"Summarise point {n + 1} of these notes. {_NOTES}",
            20,
            True,
        )
        for n in range(4)
    ]
    return _interleaved([support, search, growth, research])


def rush_calls(count: int) -> list[DemoCall]:
    """Return many different calls of one team at once, to hold a budget against."""
    return [
        DemoCall("growth", f"bot-{n % 8}", "rush", f"r-{n}", CHEAP, f"Name a colour for product number {n}.", 8)
        for n in range(count)
    ]


def write(calls: list[DemoCall], path: Path) -> Path:
    """Write calls as the application reads them."""
    path.write_text("".join(json.dumps(asdict(call)) + "\n" for call in calls), "utf-8")
    return path


def _interleaved(teams: list[list[DemoCall]]) -> list[DemoCall]:
    placed = [
        ((n + 0.5) / len(calls), index, call) for index, calls in enumerate(teams) for n, call in enumerate(calls)
    ]
    return [call for _, _, call in sorted(placed, key=lambda item: item[:2])]
