"""How the figures of a report are computed, in the words that the report prints."""
from __future__ import annotations

from analyzer.document import Bullets, Section

# ClickHouse's quantileDD(0.01) of a single value is 0.990 to 1.030 times that value (measured, chDB 4.4)
_RULES = (
    "One row is one model call. A call seen twice, by the application and by the proxy, is billed once: the proxy's "
    "row carries the money, and the application's is left out of every sum here.",
    "Cost is tokens × price for each kind of token (uncached input, cache read, cache write, output), summed exactly "
    "and rounded half up once a call, to a nano-dollar. Prices are those of the day of the call: your own from "
    "farthing.toml first, then the public price history of genai-prices.",
    "A model without a price and a call without token counts cost an unknown amount. They are counted as unknown, "
    "never as 0.",
    "An answer from the cache costs 0; what it would have cost is shown as saved.",
    "Latency is that of successful calls; percentiles come from a sketch and are up to 1 % below or 3 % above the "
    "true value. Calls that were booked from a trace file have no duration and are left out.",
    "Predicted savings are computed from the recorded calls. Only a randomised holdout verifies a saving, and no "
    "figure here is verified.",
    "Amounts are rounded to cents from one dollar on and to four places from one cent on; smaller ones are exact, and "
    "the HTML holds the exact value of each. Averages have three digits. Times are UTC; the window includes its start "
    "and not its end.",
)


def method() -> Section:
    """Return the section."""
    return Section("method", "How the figures are computed", [Bullets(_RULES)])
