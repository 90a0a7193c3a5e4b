"""What the tokens of one call cost: the kinds of token, their rates, size tiers and service tiers.

The kinds are disjoint and sum to the totals, so no token is paid for twice. This rule and the warehouse's, generated in
`farthing/warehouse/price_rule.py`, give the same nano-dollar; a property test holds them together.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from operator import mul
from typing import NamedTuple

from farthing.money import rounded

FIRST_DAY = date(1970, 1, 1)
LAST_DAY = date(2149, 6, 6)

# Words of providers for their ordinary service; every other word is a tier with a price of its own, or none.
STANDARD_TIERS = ("default", "standard", "standard_only", "auto", "on_demand")


def service_tier(told: str) -> str:
    """Return the service tier that a price is looked up by, from what a provider or a client calls it."""
    if not told:
        return ""
    name = told.strip().lower()
    return "" if name in STANDARD_TIERS else name


class Usage(NamedTuple):
    """Tokens of one call; the kinds are disjoint, and text is what no other kind claims."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0  # kept for 5 minutes, or for as long as the provider keeps by default
    output: int = 0  # reasoning included, audio not
    cache_write_1h: int = 0
    input_audio: int = 0
    cache_audio: int = 0  # audio read from the cache
    output_audio: int = 0

    @property
    def input(self) -> int:
        return sum(self) - self.output - self.output_audio

    @property
    def output_total(self) -> int:
        return self.output + self.output_audio


class Reported(NamedTuple):
    """Tokens as providers report them: totals, and parts of them that may overlap."""

    input: int
    output: int = 0
    cached: int = 0
    written: int = 0  # to the cache, for whatever time
    written_1h: int = 0  # of these, for an hour
    audio: int = 0
    cached_audio: int = 0
    output_audio: int = 0

    def usage(self) -> Usage:
        """Return the disjoint kinds; a part that is larger than what it is part of is cut, so that all sums hold."""
        if not any(self[2:]):  # most answers
            return Usage(self.input, output=self.output)
        cached = min(self.cached, self.input)
        written = min(max(self.written, self.written_1h), self.input - cached)
        written_1h = min(self.written_1h, written)
        audio = min(self.audio, self.input)
        # Audio that does not fit beside what was cached and written can only be part of what was cached.
        squeezed = audio - (self.input - cached - written)
        cached_audio = min(max(self.cached_audio, squeezed), cached, audio)
        fresh_audio = min(audio - cached_audio, self.input - cached - written)
        output_audio = min(self.output_audio, self.output)
        return Usage(
            input_uncached=self.input - cached - written - fresh_audio,
            cache_read=cached - cached_audio,
            cache_write=written - written_1h,
            output=self.output - output_audio,
            cache_write_1h=written_1h,
            input_audio=fresh_audio,
            cache_audio=cached_audio,
            output_audio=output_audio,
        )


class Rates(NamedTuple):
    """nUSD per million tokens of each kind, in the order of the fields of `Usage`."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    cache_write_1h: int
    input_audio: int
    cache_audio: int
    output_audio: int

    @classmethod
    def of(
        cls, input: int, output: int, cache_read: int | None = None, cache_write: int | None = None,
        cache_write_1h: int | None = None, input_audio: int | None = None, cache_audio: int | None = None,
        output_audio: int | None = None,
    ) -> Rates:  # fmt: skip
        """Return rates where a kind without one costs what the kind that it is a sort of costs, as genai-prices has it.

        Cached audio is a sort of cached input, else of audio.
        """
        written = input if cache_write is None else cache_write
        heard = input if input_audio is None else input_audio
        if cache_audio is None:
            cache_audio = heard if cache_read is None else cache_read
        return cls(
            input=input,
            cache_read=input if cache_read is None else cache_read,
            cache_write=written,
            output=output,
            cache_write_1h=written if cache_write_1h is None else cache_write_1h,
            input_audio=heard,
            cache_audio=cache_audio,
            output_audio=output if output_audio is None else output_audio,
        )

    @property
    def dearest_input(self) -> int:
        return max(
            self.input, self.cache_read, self.cache_write, self.cache_write_1h, self.input_audio, self.cache_audio
        )

    @property
    def dearest_output(self) -> int:
        return max(self.output, self.output_audio)


@dataclass(frozen=True)
class SizeTier:
    """Rates of every token of a call, once its input is larger than `over` tokens: the "cliff" of genai-prices."""

    over: int  # input tokens
    rates: Rates


@dataclass(frozen=True)
class Price:
    """The price of one model and service tier over the days [valid_from, valid_to], both inclusive, UTC."""

    provider: str
    model: str
    rates: Rates
    version: str  # where the price comes from
    service_tier: str = ""  # '' = the standard one
    valid_from: date = FIRST_DAY
    valid_to: date = LAST_DAY
    tiers: tuple[SizeTier, ...] = ()  # by size, the smallest first

    def rates_for(self, input_tokens: int) -> Rates:
        """Return the rates of a call with so many input tokens."""
        found = self.rates
        for tier in self.tiers:
            if input_tokens > tier.over:
                found = tier.rates
        return found

    def cost_nusd(self, usage: Usage) -> int:
        """Return what `usage` costs, nano-dollars; the rule that the warehouse applies too."""
        rates = self.rates_for(usage.input) if self.tiers else self.rates
        return rounded(sum(map(mul, usage, rates)))

    def bound_nusd(self, max_input: int, max_output: int) -> int:
        """Return the most that a call of at most so many tokens can cost, at the dearest size tier and kind."""
        dearest_input, dearest_output = self._dearest[0][1]
        if self.tiers:
            dearest_input, dearest_output = [rates for over, rates in self._dearest if max_input > over][-1]
        return rounded(max_input * dearest_input + max_output * dearest_output)

    @cached_property
    def _dearest(self) -> list[tuple[int, tuple[int, int]]]:
        """The dearest input and output of calls with more than so many input tokens, whatever their kinds."""
        found: list[tuple[int, tuple[int, int]]] = []
        dearest_input = dearest_output = 0
        for over, rates in ((-1, self.rates), *((tier.over, tier.rates) for tier in self.tiers)):
            dearest_input = max(dearest_input, rates.dearest_input)
            dearest_output = max(dearest_output, rates.dearest_output)
            found.append((over, (dearest_input, dearest_output)))
        return found

    def blocks(self) -> Iterator[tuple[int, ...]]:
        """Yield (over, rate of each kind) for the base and each size tier, the smallest first."""
        yield 0, *self.rates
        for tier in self.tiers:
            yield tier.over, *tier.rates
