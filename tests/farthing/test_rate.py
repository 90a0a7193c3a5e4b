"""farthing/rate.py: callers are bounded, each by itself."""
from __future__ import annotations

import pytest

from farthing.errors import AccessError
from farthing.rate import Rates


def test_a_bucket_empties_and_fills_for_each_caller_by_itself() -> None:
    now = [0.0]
    rates = Rates(10.0, lambda: now[0])
    for _ in range(40):
        rates.spend("ann")
    with pytest.raises(AccessError) as refused:
        rates.spend("ann")
    assert (refused.value.status, refused.value.code) == (429, "too_many_requests")
    rates.spend("bob")
    now[0] += 0.1
    rates.spend("ann")
    with pytest.raises(AccessError):
        rates.spend("ann")
    with pytest.raises(AccessError):
        rates.spend("failed 10.0.0.7", weight=41.0)
