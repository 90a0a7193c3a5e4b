"""The SQL of what a call costs, for the view that prices at insert and for `farthing reprice` alike.

The rule of `farthing.tariff.Price.cost_nusd`: the size tier of the whole call, the exact sum of token products, rounded
half up once. A price is one text of 64-bit numbers, because a look-up of ten numbers costs ten look-ups.
[0.35 µs a row and price; as one text 0.07 µs]
"""
from __future__ import annotations

import re

from farthing.tariff import STANDARD_TIERS, Rates

_BLOCK = 1 + len(Rates._fields)  # numbers of a size tier: input tokens past which it holds, and the rate of each kind

# Tokens of each kind from the columns of `requests`, in the order of the fields of Usage and Rates
_TOKENS = (
    "ifNull(input_uncached, 0)", "ifNull(cache_read_tokens, 0)", "ifNull(cache_write_tokens, 0)",
    "ifNull(output_tokens, 0) - ifNull(output_audio_tokens, 0)", "ifNull(cache_write_1h_tokens, 0)",
    "ifNull(input_audio_tokens, 0)", "ifNull(cache_audio_tokens, 0)", "ifNull(output_audio_tokens, 0)",
)  # fmt: skip
# Price book -> the text that is looked up: the rates, then the version, and its length in the last byte
PACKED = (
    "concat(arrayStringConcat(arrayMap(number -> substring(reinterpretAsFixedString(number), 1, 8), rates)), "
    "version, char(length(version)))"
)
_VERSION_LENGTH = "reinterpretAsUInt8(substring(price, -1))"


def service_tier(told: str) -> str:
    """Return SQL of the tier that a price is looked up by; the rule of `farthing.tariff.service_tier`."""
    return f"transform(lower(trimBoth({told})), {list(STANDARD_TIERS)}, {[''] * len(STANDARD_TIERS)})"


def _look_up(model: str) -> str:
    return (
        f"dictGetOrDefault('{{{{database}}}}.prices', 'price', (provider, {model}, service_tier), "
        "toDate32(started_at, 'UTC'), '')"
    )


def _cost_nusd() -> str:
    """Return SQL of the cost; 0 where there is no price."""
    tier = f"arrayCount(at -> rates[at] < ifNull(input_tokens, 0), range({_BLOCK + 1}, length(rates), {_BLOCK}))"
    paid = f"arrayResize(arraySlice(rates, 2 + {_BLOCK} * {tier}, {_BLOCK - 1}), {_BLOCK - 1})"
    return f"intDiv(500000 + arraySum((n, rate) -> toInt128(n) * rate, [{', '.join(_TOKENS)}], {paid}), 1000000)"


def _saved_nusd() -> str:
    """Return SQL of what input would have cost that a cache had the answer to, in a call that was answered in part."""
    return "intDiv(500000 + toInt128(saved_input_tokens) * rates[2], 1000000)"


def usd(nusd: str) -> str:
    """Return SQL of nano-dollars as Decimal(18, 9); NULL where that cannot hold them."""
    return f"accurateCastOrNull(toDecimal128({nusd}, 9) / 1000000000, 'Decimal(18, 9)')"


# What each step names for the next ones, from the columns of `requests` and the names before it
LOOK_UP = {
    "is_unknown": "isNull(input_tokens) AND isNull(output_tokens)",
    "answered": _look_up("response_model"),
    "price": f"if(answered != '' OR request_model = response_model, answered, {_look_up('request_model')})",
}
WORK_OUT = {
    "priced_model": "if(response_model != '' AND (answered != '' OR price = ''), response_model, request_model)",
    "rates": f"reinterpret(substring(price, 1, length(price) - 1 - {_VERSION_LENGTH}), 'Array(UInt64)')",
    "found_version": f"substring(price, -1 - {_VERSION_LENGTH}, {_VERSION_LENGTH})",
    "usd": f"if(price = '' OR is_unknown, NULL, {usd(_cost_nusd())})",
}
COLUMNS = {
    "model": "priced_model",
    "cost_usd": "if(cache_hit != '' OR outcome = 'refused', toDecimal64(0, 9), usd)",
    "saved_usd": f"multiIf(cache_hit != '', usd, saved_input_tokens > 0 AND price != '', {usd(_saved_nusd())}, NULL)",
    "price_state": "multiIf(cache_hit != '', 'cached', outcome = 'refused', 'refused', is_unknown, 'no_usage', "
    "price = '', 'unpriced', 'priced')",
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
