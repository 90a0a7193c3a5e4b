"""analyzer/cache_waste.py: what was paid for the same request again, and how much of it is safe to cache."""
from datetime import timedelta
from decimal import Decimal

from analyzer.cache_waste import find
from analyzer.figures import waste
from analyzer.window import Window
from farthing.warehouse.client import Warehouse

ROW = {
    "team": "search", "model": "gpt-4o-mini", "groups": 2, "requests": 12, "repeats": 10,
    "cost_usd": Decimal("0.001200000"), "avoidable_usd": Decimal("0.001000000"), "safe_usd": Decimal("0.000250000"),
    "worst_hash": "ab12", "worst_calls": 9,
}  # fmt: skip


def test_the_saving_is_called_predicted_and_never_verified() -> None:
    (found,) = find([ROW])
    assert found.avoidable_usd == Decimal("0.001000000")
    assert found.evidence["state"] == "predicted"
    assert "verified" not in found.title + found.detail


def test_temperature_zero_is_told_from_sampled_answers() -> None:
    (found,) = find([ROW])
    assert "$0.00025 (25.0 %) asked for temperature 0 and is safe to cache; $0.00075 is for sampled" in found.detail
    assert (found.evidence["safe_usd"], found.evidence["sampled_usd"]) == ("0.000250000", "0.000750000")


def test_where_all_is_deterministic_all_is_safe() -> None:
    (found,) = find([{**ROW, "safe_usd": ROW["avoidable_usd"]}])
    assert found.detail.endswith("All of it asked for temperature 0 and is safe to answer from an exact cache.")


def test_where_nothing_is_deterministic_a_repeat_may_be_meant() -> None:
    (found,) = find([{**ROW, "safe_usd": Decimal(0)}])
    assert found.detail.endswith("where a repeat may be meant.")


def test_repeats_that_cost_nothing_are_no_waste() -> None:
    (found,) = find([{**ROW, "avoidable_usd": Decimal(0)}])
    assert (found.title, found.avoidable_usd) == ("No repeated requests", 0)


def test_all_that_was_paid_after_the_first_answer_is_avoidable(
    warehouse: Warehouse, put_calls, noon, tenant: str
) -> None:
    def call(key: str, minute: int, temperature: float | None, tokens: int = 1_000, team: str = "search") -> dict:
        at = noon + timedelta(minutes=minute)
        return {"team": team, "hash": key, "at": at, "temperature": temperature, "input": tokens, "output": 0}

    put_calls(tenant, [
        call("same", 1, 0.0, tokens=2_000), call("same", 2, 0.0), call("same", 3, 0.0),  # 0.0003, then 2 x 0.00015
        call("warm", 1, 0.7), call("warm", 2, 0.7),  # 0.00015 again
        call("once", 1, 0.0), call("ours", 1, 0.0, team="ads"),
    ])  # fmt: skip
    (found,) = waste(warehouse, Window(tenant, noon, noon + timedelta(hours=1)))
    assert found.subject == "search on gpt-4o-mini"
    assert found.cost_usd == Decimal("0.000900000")
    assert found.avoidable_usd == Decimal("0.000450000")
    assert found.evidence["safe_usd"] == "0.000300000"
    assert (found.evidence["repeats"], found.requests) == (3, 5)
    assert (found.evidence["worst_hash"], found.evidence["worst_calls"]) == ("same", 3)
