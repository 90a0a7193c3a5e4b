"""The public price history of `genai-prices`: lists, not guesses.

A provider counts only under its own name, because genai-prices would take any name with "openai" in it for OpenAI, and
a model that somebody hosts is not the public one. A service tier has a price only where the history names one.
"""
from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timezone
from decimal import Decimal
from functools import cache
from importlib.metadata import version as package_version

from genai_prices import data_snapshot, types

from farthing.money import price_from_usd_per_mtok
from farthing.tariff import FIRST_DAY, Price, Rates, SizeTier

# Names that providers have in spans -> those of genai-prices, where they differ
_NAMES = {
    "aws.bedrock": "aws",
    "aws_bedrock": "aws",
    "amazon_bedrock": "aws",
    "bedrock": "aws",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure_openai": "azure",
    "azure_ai": "azure",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "gemini": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "vertex_ai": "google",
    "vertexai": "google",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "moonshot_ai": "moonshotai",
    "together_ai": "together",
    "together-ai": "together",
    "togetherai": "together",
    "x_ai": "x-ai",
    "xai": "x-ai",
}

# Where the providers of the instrumentations' automatic names answer, by registrable domain. A call to any other
# address is of a server that speaks their protocol, and theirs is not its price.
PUBLIC_DOMAINS: dict[str, tuple[str, ...]] = {
    "openai": ("openai.com",),
    "anthropic": ("anthropic.com",),
    "azure": ("azure.com", "azure-api.net", "microsoft.com"),
    "aws": ("amazonaws.com",),
    "google": ("googleapis.com",),
    "mistral": ("mistral.ai",),
    "cohere": ("cohere.com", "cohere.ai"),
    "deepseek": ("deepseek.com",),
    "groq": ("groq.com",),
    "perplexity": ("perplexity.ai",),
    "x-ai": ("x.ai",),
    "moonshotai": ("moonshot.ai", "moonshot.cn"),
}

_KINDS = {  # kinds of Rates.of -> genai-prices' names
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "input_audio": "input_audio_mtok",
    "cache_audio": "cache_audio_read_mtok",
    "output_audio": "output_audio_mtok",
}
_TIER_KEYS: tuple[str, ...] = ("service_tier", "processing", "speed")  # what genai-prices names a service tier by
_NOON = time(12)
Quoted = Decimal | types.TieredPrices | None


def names_of(provider: str) -> tuple[str, ...]:
    """Return every name that a provider of genai-prices has in spans."""
    return (provider, *(name for name, public in _NAMES.items() if public == provider))


@cache
def source() -> str:
    return f"genai-prices {package_version('genai-prices')}"


def public_prices(provider: str, model: str) -> list[Price]:
    """Return the prices of a model for every service tier that has one, oldest first within a tier; [] = unpriced.

    They are not chained yet: each holds from its day until the next one of the same tier.
    """
    found = _model(provider, model)
    if found is None:
        return []
    info, is_own = found
    tiers = ["", *sorted(_tiers(info))] if is_own else [""]  # whose models a provider resells, not whose tiers
    return [price for tier in tiers for price in _changes(Price(provider, model, _NOTHING, source(), tier), info)]


def _changes(base: Price, info: types.ModelInfo) -> Iterator[Price]:
    """Yield the prices of one service tier, each on the day that it changed."""
    last: Price | None = None
    for day in _days(info):
        price = _price(base, info, day)
        if price is not None and (last is None or (price.rates, price.tiers) != (last.rates, last.tiers)):
            yield price
            last = price


_NOTHING = Rates.of(0, 0)


def _model(provider: str, model: str) -> tuple[types.ModelInfo, bool] | None:
    """Return the model, and whether it is the provider's own and not one that it resells."""
    snapshot = data_snapshot.get_snapshot()
    name = _NAMES.get(provider, provider)
    listed = next((one for one in snapshot.providers if one.id == name), None)
    if listed is None or not model:
        return None
    info = listed.find_model(model, all_providers=snapshot.providers)
    return None if info is None else (info, any(info is own for own in listed.models))


def _tiers(info: types.ModelInfo) -> set[str]:
    return {
        variant.when[key]
        for variant in info.price_variants or ()
        for key in _TIER_KEYS
        if key in variant.when and variant.when[key] != "default"
    }


def _days(info: types.ModelInfo) -> list[date]:
    listed = info.prices if isinstance(info.prices, list) else []
    constraints = [one.constraint for one in (*listed, *(info.price_variants or ()))]
    starts = {one.start_date for one in constraints if isinstance(one, types.StartDateConstraint)}
    return sorted({FIRST_DAY, *starts})


def _price(base: Price, info: types.ModelInfo, day: date) -> Price | None:
    noon = datetime.combine(day, _NOON, tzinfo=timezone.utc)
    context: dict[str, str] = dict.fromkeys(_TIER_KEYS, base.service_tier)
    if base.service_tier and not _is_quoted(info, context, noon):
        return None
    quoted: dict[str, Quoted] = info.get_prices(noon, context if base.service_tier else None).__dict__
    if quoted.get("input_mtok") is None and quoted.get("output_mtok") is None:
        return None
    tiered = [one for one in quoted.values() if isinstance(one, types.TieredPrices)]
    starts = sorted({tier.start for one in tiered for tier in one.tiers})
    tiers = tuple(SizeTier(start, _rates(quoted, start + 1)) for start in starts)
    version = base.version + (" at noon UTC" if _varies_by_hour(info) else "")
    return Price(base.provider, base.model, _rates(quoted, 0), version, base.service_tier, day, tiers=tiers)


def _is_quoted(info: types.ModelInfo, context: dict[str, str], at: datetime) -> bool:
    return any(
        variant.prices.__dict__
        and all(context.get(key) == value for key, value in variant.when.items())
        and (variant.constraint is None or variant.constraint.active(at))
        for variant in info.price_variants or ()
    )


def _varies_by_hour(info: types.ModelInfo) -> bool:
    listed = info.prices if isinstance(info.prices, list) else []
    return any(isinstance(one.constraint, types.TimeOfDateConstraint) for one in listed)


def _rates(quoted: dict[str, Quoted], input_tokens: int) -> Rates:
    given = dict(_rated(quoted, input_tokens))
    return Rates.of(given.pop("input", 0), given.pop("output", 0), **given)


def _rated(quoted: dict[str, Quoted], input_tokens: int) -> Iterator[tuple[str, int]]:
    for kind, name in _KINDS.items():
        value = quoted.get(name)
        if isinstance(value, types.TieredPrices):
            reached = [tier.price for tier in value.tiers if input_tokens > tier.start]
            value = reached[-1] if reached else value.base
        if value is not None:
            yield kind, price_from_usd_per_mtok(value)
