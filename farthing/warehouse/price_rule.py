"""The SQL of what a call costs, for the view that prices at insert and for `farthing reprice` alike.

The rule of `farthing.tariff.Price.cost_nusd`: the size tier of the whole call, the exact sum of token products, rounded
half up once. A price is one text of 64-bit numbers, because a look-up of ten numbers costs ten look-ups.
[0.35 µs a row and price; as one text with its version 0.12 µs]
"""
from __future__ import annotations

import re

from farthing.tariff import STANDARD_TIERS, Rates

_BLOCK = 8 * (1 + len(Rates._fields))  # bytes of a size tier: where it begins, and the rate of each kind

# Columns of `requests` with the tokens of each kind, in the order of the fields of Usage and Rates
TOKENS = (
    "ifNull(input_uncached, 0)",
    "ifNull(cache_read_tokens, 0)",
    "ifNull(cache_write_tokens, 0)",
    "ifNull(output_tokens, 0) - ifNull(output_audio_tokens, 0)",
    "ifNull(cache_write_1h_tokens, 0)",
    "ifNull(input_audio_tokens, 0)",
    "ifNull(cache_audio_tokens, 0)",
    "ifNull(output_audio_tokens, 0)",
)
# Array(UInt64) of the price book -> the text that is looked up
PACKED = "arrayStringConcat(arrayMap(number -> substring(reinterpretAsFixedString(number), 1, 8), rates))"


def service_tier(told: str) -> str:
    """Return SQL of the tier that a price is looked up by; the rule of `farthing.tariff.service_tier`."""
    standard = ", ".join(f"'{name}'" for name in STANDARD_TIERS)
    return f"transform(lower(trimBoth({told})), [{standard}], arrayWithConstant({len(STANDARD_TIERS)}, ''))"


def _look_up(attribute: str, model: str) -> str:
    return (
        f"dictGetOrDefault('{{{{database}}}}.prices', '{attribute}', (provider, {model}, service_tier), "
        "toDate32(started_at, 'UTC'), '')"
    )


def _number(position: str) -> str:
    return f"reinterpretAsUInt64(substring(rates, {position}, 8))"


def _cost_nusd() -> str:
    tier = (
        f"if(length(rates) <= {_BLOCK}, 0, {_BLOCK} * arrayCount(n -> "
        f"{_number(f'{_BLOCK} * n + 1')} < ifNull(input_tokens, 0), range(1, intDiv(length(rates), {_BLOCK}))))"
    )
    terms = [
        f"toInt128({tokens}) * reinterpretAsUInt64(substring(tier_rates, {9 + 8 * number}, 8))"
        for number, tokens in enumerate(TOKENS)
    ]
    whole = " + ".join(terms).replace("tier_rates", f"substring(rates, 1 + {tier}, {_BLOCK})")
    return f"intDiv(500000 + {whole}, 1000000)"


def usd(nusd: str) -> str:
    """Return SQL of nano-dollars as Decimal(18, 9); NULL where that cannot hold them."""
    return f"accurateCastOrNull(toDecimal128({nusd}, 9) / 1000000000, 'Decimal(18, 9)')"


# What each step names for the next ones, from the columns of `requests` and the names before it
LOOK_UP = {
    "is_unknown": "isNull(input_tokens) AND isNull(output_tokens)",
    "answered_rates": _look_up("rates", "response_model"),
    "rates": f"if(answered_rates != '' OR request_model = response_model, answered_rates, {_look_up('rates', 'request_model')})",
}
WORK_OUT = {
    "priced_model": "if(response_model != '' AND (answered_rates != '' OR rates = ''), response_model, request_model)",
    "found_version": f"if(rates = '', '', {_look_up('version', 'priced_model')})",
    "usd": f"if(rates = '' OR is_unknown, NULL, {usd(_cost_nusd())})",
}
COLUMNS = {
    "model": "priced_model",
    "cost_usd": "if(cache_hit != '' OR outcome = 'refused', toDecimal64(0, 9), usd)",
    "saved_usd": "if(cache_hit != '', usd, NULL)",
    "price_state": "multiIf(cache_hit != '', 'cached', outcome = 'refused', 'refused', is_unknown, 'no_usage', "
    "rates = '', 'unpriced', 'priced')",
    "price_version": "found_version",
}


def named(step: dict[str, str]) -> str:
    """Return a step for a SELECT."""
    return ",\n        ".join(f"{expression} AS {name}" for name, expression in step.items())


def priced_columns() -> dict[str, str]:
    """Return what each priced column of `requests` is, in terms of the other columns alone."""
    known: dict[str, str] = {}
    for name, expression in (*LOOK_UP.items(), *WORK_OUT.items()):
        known[name] = _inlined(expression, known)
    return {name: _inlined(expression, known) for name, expression in COLUMNS.items()}


def _inlined(expression: str, known: dict[str, str]) -> str:
    return _NAME.sub(lambda match: f"({known[match.group()]})" if match.group() in known else match.group(), expression)


_NAME = re.compile(r"(?<!')\b[a-z_]+\b(?!')")
