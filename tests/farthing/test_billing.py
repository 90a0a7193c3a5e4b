"""farthing/warehouse/billing.py: several rows of one call, one of them billed."""
from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from farthing.warehouse.billing import BILLED, DUPLICATE, REPLAYED, Row, corrections

PROXY, KNOWN, ESTIMATE, MISSING = 8 + 4 + 1, 4 + 1, 2 + 1, 0


def row(
    span: int,
    parent: int = 0,
    response: int = 0,
    rank: int = KNOWN,
    received: int = 0,
    n: int = 0,
    verdict: int = BILLED,
) -> Row:
    return Row(0, (1, n or span), span, parent, response, rank, received, verdict)


def verdicts(*rows: Row) -> list[int]:
    wrong = {one.place: verdict for one, verdict in corrections(rows)}
    return [wrong.get(one.place, one.verdict) for one in rows]


def test_calls_that_share_nothing_stay_as_they_are() -> None:
    assert corrections([row(1), row(2), row(3, parent=99), row(4, parent=99)]) == []


def test_a_span_delivered_twice_is_billed_once() -> None:
    assert verdicts(row(1, received=20, n=11), row(1, received=10, n=12)) == [REPLAYED, BILLED]
    assert verdicts(row(1, n=12), row(1, n=11), row(1, n=13)) == [REPLAYED, BILLED, REPLAYED]


def test_of_two_rows_of_one_answer_the_better_known_is_billed() -> None:
    assert verdicts(row(1, response=7, rank=ESTIMATE), row(2, response=7)) == [DUPLICATE, BILLED]
    assert verdicts(row(1, response=7, received=2), row(2, response=7, received=1)) == [DUPLICATE, BILLED]


def test_the_proxys_row_takes_over_from_an_application_that_had_been_billed() -> None:
    app = row(1, response=7)
    assert verdicts(app) == [BILLED]
    assert verdicts(app, row(2, response=7, rank=PROXY, received=9)) == [DUPLICATE, BILLED]


def test_a_wrapper_yields_to_the_call_that_it_wraps() -> None:
    assert verdicts(row(1), row(2, parent=1)) == [DUPLICATE, BILLED]
    assert verdicts(row(1, response=7), row(2, parent=1, response=7)) == [DUPLICATE, BILLED]
    assert verdicts(row(1), row(2, parent=1), row(3, parent=2)) == [DUPLICATE, DUPLICATE, BILLED]


def test_a_wrapper_that_alone_knows_the_usage_keeps_the_money() -> None:
    assert verdicts(row(1), row(2, parent=1, rank=MISSING)) == [BILLED, DUPLICATE]
    assert verdicts(row(1, rank=PROXY), row(2, parent=1), row(3, parent=2)) == [BILLED, DUPLICATE, DUPLICATE]


def test_a_router_yields_to_all_the_calls_that_it_made() -> None:
    assert verdicts(row(1), row(2, parent=1), row(3, parent=1), row(4, parent=1, rank=MISSING)) == [DUPLICATE, 0, 0, 0]


def test_the_middle_of_a_chain_that_knows_nothing_does_not_hide_what_is_below_it() -> None:
    assert verdicts(row(1), row(2, parent=1, rank=MISSING), row(3, parent=2)) == [DUPLICATE, DUPLICATE, BILLED]


def test_what_the_proxy_answers_from_its_cache_is_a_call_of_its_own() -> None:
    rows = [row(1, response=7, rank=PROXY), row(2, response=7, rank=PROXY), row(3, response=7)]
    assert verdicts(*rows) == [BILLED, BILLED, DUPLICATE]


def test_a_proxy_in_front_of_a_proxy_is_billed_once() -> None:
    assert verdicts(row(1, response=7, rank=PROXY), row(2, parent=1, response=7, rank=PROXY)) == [DUPLICATE, BILLED]


def test_an_application_behind_the_proxy_keeps_the_proxys_row_billed() -> None:
    assert verdicts(row(1, response=7, rank=PROXY), row(2, parent=1, response=7)) == [BILLED, DUPLICATE]


def test_spans_that_name_one_another_as_parents_do_not_lose_the_money() -> None:
    assert sorted(verdicts(row(1, parent=2), row(2, parent=1))) == [BILLED, DUPLICATE]


def test_a_thousand_spans_inside_one_another_are_one_call() -> None:
    assert sum(one == BILLED for one in verdicts(*(row(n + 1, parent=n) for n in range(5000)))) == 1


def test_rows_of_other_nodes_or_partitions_that_lie_at_the_same_place_are_told_apart() -> None:
    wrapper, elsewhere = row(1, n=7), row(5, n=7)  # each node counts its own blocks
    assert corrections([wrapper, row(2, parent=1), elsewhere]) == [(wrapper, DUPLICATE)]
    copy = row(9, n=8, received=1)
    assert corrections([row(9), copy, row(6, n=8)]) == [(copy, REPLAYED)]


def test_a_duplicate_whose_better_row_is_gone_is_billed_again() -> None:
    assert verdicts(row(1, verdict=DUPLICATE)) == [BILLED]


chains = st.lists(st.sampled_from([KNOWN, ESTIMATE, MISSING, PROXY]), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@example([[PROXY, KNOWN, PROXY, KNOWN, PROXY]], True, 0)
@given(st.lists(chains, min_size=1, max_size=8), st.booleans(), st.integers(0, 2**32))
def test_every_call_is_billed_exactly_once_in_any_order_and_corrections_settle_it(
    calls: list[list[int]], have_answers: bool, seed: int
) -> None:
    rows: list[Row] = []
    call_of: dict[int, int] = {}
    for number, ranks in enumerate(calls):
        for depth, rank in enumerate(ranks):
            span = number * 10 + depth + 1
            call_of[span] = number
            answer = 1000 + number if have_answers and rank < PROXY else 0
            rows.append(row(span, parent=span - 1 if depth else 0, response=answer, rank=rank, received=span % 3))
    random.Random(seed).shuffle(rows)
    settled = [one._replace(verdict=verdict) for one, verdict in zip(rows, verdicts(*rows), strict=True)]
    billed = sorted(call_of[one.span] for one in settled if one.verdict == BILLED)
    assert billed == list(range(len(calls)))
    assert corrections(settled) == []
    by_arrival = sorted(rows, key=lambda one: one.span)
    assert {one.span: v for one, v in zip(by_arrival, verdicts(*by_arrival), strict=True)} == {
        one.span: one.verdict for one in settled
    }


def test_only_what_is_wrong_is_corrected() -> None:
    copy = row(1, n=5, verdict=DUPLICATE)
    assert corrections([row(1), copy]) == [(copy, REPLAYED)]
    assert corrections([row(1), copy._replace(verdict=REPLAYED)]) == []
