"""farthing/prices.py: own prices first, then public history; unknown stays unknown."""
from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal

import pytest
from genai_prices import Usage as PublicUsage
from genai_prices import calc_price, data_snapshot

from farthing.errors import PriceError
from farthing.money import usd_from_nusd
from farthing.prices import LAST_DAY, PriceBook, Usage
from farthing.settings import PriceOverride

TODAY = date(2026, 11, 1)


@pytest.mark.parametrize(
    ("provider", "public", "model", "day"),
    [
        ("openai", "openai", "gpt-4o-mini", date(2026, 11, 1)),
        ("openai", "openai", "o3", date(2024, 6, 1)),
        ("openai", "openai", "o3", date(2026, 11, 1)),
        ("anthropic", "anthropic", "claude-sonnet-4-5", date(2026, 11, 1)),
        ("gcp.gemini", "google", "gemini-2.5-pro", date(2026, 11, 1)),
    ],
)
@pytest.mark.parametrize("total", [1_000, 250_000])
def test_a_public_price_agrees_with_its_source(provider: str, public: str, model: str, day: date, total: int) -> None:
    price = PriceBook().at(provider, model, day)
    assert price is not None
    ours = price.cost_nusd(Usage(input_uncached=total - 400, cache_read=400, output=77))
    theirs = calc_price(
        PublicUsage(input_tokens=total, cache_read_tokens=400, output_tokens=77),
        model,
        provider_id=public,
        genai_request_timestamp=datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc),
    )
    assert abs(usd_from_nusd(ours) - theirs.total_price) <= Decimal("0.0000000005")


@pytest.mark.parametrize(
    "pair",
    [
        ("farthing", "gpt-4o"), ("", "gpt-4o"), ("openai", "no-such-model"), ("nobody", "gpt-4o"), ("openai", ""),
        ("vllm", "gpt-4o"), ("ollama", "gpt-oss-20b"), ("self-hosted", "gpt-4o"), ("vllm-openai", "gpt-4o"),
        ("my-anthropic", "claude-sonnet-4-5"), ("lm_studio", "gpt-4o"), ("litellm", "gpt-4o"),
    ],
)  # fmt: skip
def test_what_has_no_price_has_none(pair: tuple[str, str]) -> None:
    assert PriceBook().history(*pair) == []


def test_an_own_price_ends_the_public_one_on_the_day_before() -> None:
    book = PriceBook([PriceOverride("openai", "gpt-4o-mini", input="1", output="2", valid_from="2026-10-01")])
    before, after = book.at("openai", "gpt-4o-mini", date(2026, 9, 30)), book.at("openai", "gpt-4o-mini", TODAY)
    assert before is not None and before.version.startswith("genai-prices") and before.valid_to == date(2026, 9, 30)
    assert after is not None and (after.version, after.rates.output, after.valid_to) == ("own", 2 * 10**9, LAST_DAY)


def test_the_bound_is_never_below_the_cost() -> None:
    price = PriceBook().at("anthropic", "claude-sonnet-4-5", TODAY)
    assert price is not None
    for usage in (Usage(250_000, 0, 0, 10), Usage(0, 0, 900, 10), Usage(0, 900, 0, 0), Usage(10, 10, 10, 500)):
        assert price.cost_nusd(usage) <= price.bound_nusd(usage.input, usage.output)


KINDS = {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "input_audio_mtok",
         "cache_audio_read_mtok", "output_audio_mtok", "web_searches_kcount", "storage_searches_kcount"}  # fmt: skip
PARTS = {"cache_read_tokens": 70_000, "cache_write_tokens": 9_000, "cache_write_1h_tokens": 4_000,
         "input_audio_tokens": 30_000, "cache_audio_read_tokens": 2_000, "output_audio_tokens": 500}  # fmt: skip


TIER_KEYS = ("service_tier", "processing", "speed")


@pytest.mark.parametrize("tier", ["", "batch", "flex", "priority", "fast"])
@pytest.mark.parametrize("total", [200_000, 200_001])
def test_every_public_model_costs_what_its_source_says(tier: str, total: int) -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
    usage = Usage(total - 107_000, 68_000, 5_000, 9_500, 4_000, 28_000, 2_000, 500)
    assert usage.input == total
    compared, book = 0, PriceBook()
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            price, listed = book.at(provider.id, model.id, noon.date(), tier), provider.find_model(model.id)
            if price is None or listed is None or not set(listed.get_prices(noon).__dict__) <= KINDS:
                continue
            theirs = calc_price(
                PublicUsage(input_tokens=total, output_tokens=10_000, **PARTS), model.id, provider_id=provider.id,
                genai_request_timestamp=noon, price_context=dict.fromkeys(TIER_KEYS, tier),
            )  # fmt: skip
            assert abs(usd_from_nusd(price.cost_nusd(usage)) - theirs.total_price) <= Decimal("0.000001"), model.id
            compared += 1
    assert compared >= {"": 1500, "batch": 30, "flex": 5, "priority": 5, "fast": 5}[tier], compared


def test_a_service_tier_without_a_price_has_none_and_a_reseller_s_has_none_of_the_maker_s() -> None:
    book = PriceBook()
    assert book.at("openai", "gpt-4o", TODAY, "scale") is None
    assert book.at("openai", "gpt-5-mini", TODAY, "flex") is not None
    assert book.at("azure.ai.openai", "gpt-5-mini", TODAY) is not None
    assert book.at("azure.ai.openai", "gpt-5-mini", TODAY, "flex") is None


def test_an_own_price_of_a_service_tier_leaves_the_others() -> None:
    book = PriceBook([PriceOverride("openai", "gpt-5-mini", input="1", output="2", service_tier="Scale")])
    scale, standard = (book.at("openai", "gpt-5-mini", TODAY, tier) for tier in ("scale", ""))
    assert scale is not None and scale.version == "own" and standard is not None and standard.version != "own"


def test_of_two_own_prices_from_one_day_on_the_last_holds() -> None:
    said = [PriceOverride("x", "y", input=price, output="0", valid_from="2026-10-01") for price in ("1", "3")]
    (price,) = PriceBook(said).history("x", "y")
    assert price.rates.input == 3 * 10**9


def test_an_override_may_have_every_kind_and_several_size_tiers() -> None:
    (price,) = PriceBook([PriceOverride(
        "x", "y", input="1", output="2", cache_write="1.25", input_audio="9", tiers=(
            {"over": 1000, "input": "4", "output": "8"},
            {"over": 100, "input": "2", "output": "4", "cache_read": "0.1"},
        ),
    )]).history("x", "y")  # fmt: skip
    rates = price.rates
    assert (rates.cache_write_1h, rates.cache_audio, rates.cache_read) == (125 * 10**7, 9 * 10**9, 10**9)
    assert [(tier.over, tier.rates.input, tier.rates.cache_read) for tier in price.tiers] == [
        (100, 2 * 10**9, 10**8), (1000, 4 * 10**9, 4 * 10**9)
    ]


@pytest.mark.parametrize(("more", "says"), [
    ({"tiers": ({"over": 0, "input": "1", "output": "1"},)}, "over = 0; write the input tokens past which it holds"),
    ({"tiers": ({"over": 9, "input": "1", "output": "1"},) * 2}, "two tiers begin over 9 input tokens"),
    ({"tiers": ({"over": 9, "inptu": "1", "output": "1"},)}, "unknown key 'inptu'; known: over, input"),
    ({"input_audio": "NaN"}, "input_audio = 'NaN'; write USD"),
    ({"provider": " "}, "provider and model must both be named"),
])  # fmt: skip
def test_a_bad_kind_or_tier_is_named(more: dict[str, object], says: str) -> None:
    with pytest.raises(PriceError, match=says):
        PriceBook([PriceOverride(**({"provider": "x", "model": "y", "input": "1", "output": "1"} | more))])  # type: ignore[arg-type]


def test_a_bad_override_names_the_value_and_what_is_allowed() -> None:
    with pytest.raises(PriceError, match="input = 'cheap'; write USD per million tokens"):
        PriceBook([PriceOverride("x", "y", input="cheap", output="1")])
    with pytest.raises(PriceError, match="valid_from = 'soon'; write a date"):
        PriceBook([PriceOverride("x", "y", input="1", output="1", valid_from="soon")])
