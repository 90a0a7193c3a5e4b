"""collector/upkeep.py: calls that several spans describe are billed once, whenever the spans come, and sums follow."""
from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from collector.commit import GroupCommit
from collector.flush import Flusher
from collector.pricing import Pricing
from collector.spool import Spool
from collector.upkeep import Upkeep
from farthing import otlp, semconv
from farthing.errors import WarehouseError
from farthing.prices import PriceBook
from farthing.warehouse import Warehouse, corrections, rollup, segment
from farthing.warehouse.cluster import Cluster

MINUTE = 60 * 10**9
USD = Decimal("0.15")


class Store:
    """A spool, a flusher and an upkeep over the one warehouse, as the collector has them."""

    def __init__(self, warehouse: Warehouse, folder: Path, tenant: str) -> None:
        self.warehouse, self.folder, self.tenant = warehouse, folder, tenant
        self.restart()

    def restart(self) -> None:
        spool = Spool(self.folder, 10**9)
        self.spool = spool
        self.flusher = Flusher(spool, self.warehouse, Pricing(self.warehouse, PriceBook()), 3600)
        self.upkeep = Upkeep(self.warehouse, self.flusher.fresh, 3600)

    def put(self, *spans: bytes, scope: str = "test") -> None:
        body = otlp.traces([("service.name", "shop")], scope, "1", spans)
        asyncio.run(GroupCommit(self.spool).put(self.tenant, body))
        self.flusher.flush()

    def settle(self) -> None:
        self.upkeep.settle()
        assert (self.upkeep.failures, self.upkeep.last_error) == (0, "")

    def rows(self) -> list[tuple[Any, ...]]:
        names = "span_id, billed, unbilled_reason"
        query = f"SELECT {names} FROM requests WHERE tenant = '{self.tenant}' ORDER BY span_id, billed DESC"
        return [(int(row[0], 16), *row[1:]) for row in self.warehouse._client().query(query).result_rows]

    def totals(self) -> tuple[int, Decimal]:
        asked = {"since": datetime(2026, 1, 1, tzinfo=timezone.utc), "until": datetime(2100, 1, 1, tzinfo=timezone.utc)}
        row = self.warehouse.ask("totals", tenant=self.tenant, part="test", **asked, teams=[], models=[])[0]
        return row["requests"], row["cost_usd"]


@pytest.fixture
def store(warehouse: Warehouse, tmp_path: Path) -> Store:
    return Store(warehouse, tmp_path / "spool", uuid.uuid4().hex)


AT = int(datetime(2026, 9, 20, 10, 20, tzinfo=timezone.utc).timestamp()) * 10**9


@pytest.fixture
def span() -> Callable[..., bytes]:
    trace = uuid.uuid4().bytes

    def make(
        n: int, parent: int = 0, answer: str = "", tokens: int | None = 1_000_000, at: int = AT, **more: Any
    ) -> bytes:
        given = [(semconv.OPERATION_NAME, more.get("operation", "chat")), (semconv.PROVIDER_NAME, "openai")]
        given += [(semconv.REQUEST_MODEL, "gpt-4o-mini")]
        if tokens is not None:
            given += [(semconv.USAGE_INPUT_TOKENS, tokens), (semconv.USAGE_OUTPUT_TOKENS, 0)]
        if answer:
            given += [(semconv.RESPONSE_ID, answer)]
        if more.get("is_unbilled"):
            given += [(semconv.BILLED, False), (semconv.UNBILLED_REASON, "nested")]
        ids = trace, n.to_bytes(8, "big"), parent.to_bytes(8, "big") if parent else b""
        return otlp.span(*ids, "chat", (at, at + 10**9), otlp.attributes(given))

    return make


def test_a_wrapper_in_the_same_batch_is_billed_once(store: Store, span: Callable[..., bytes]) -> None:
    store.put(span(1), span(2, parent=1))
    store.settle()
    assert store.rows() == [(1, False, "duplicate"), (2, True, "")]
    assert store.totals() == (1, USD)
    corrected = store.upkeep.corrected  # with what earlier tests left in the warehouse
    store.settle()
    assert corrected >= 1 and store.upkeep.corrected == corrected


def test_a_row_that_comes_an_hour_later_finds_its_call(store: Store, span: Callable[..., bytes]) -> None:
    store.put(span(2, parent=1, answer="a"))
    store.settle()
    store.put(span(1, at=AT - 2 * MINUTE))
    store.settle()
    assert store.rows() == [(1, False, "duplicate"), (2, True, "")]


def test_the_proxys_row_takes_over_and_exactly_one_is_billed(store: Store, span: Callable[..., bytes]) -> None:
    answer = uuid.uuid4().hex
    store.put(span(1, answer=answer))
    store.put(span(2, answer=answer, tokens=None))
    store.settle()
    assert store.rows() == [(1, True, ""), (2, False, "duplicate")]
    store.put(span(3, answer=answer), scope=semconv.PROXY_SCOPE)
    store.settle()
    assert store.rows() == [(1, False, "duplicate"), (2, False, "duplicate"), (3, True, "")]
    assert store.totals() == (1, USD)


def test_an_answer_s_id_that_is_too_short_to_be_one_of_its_kind_joins_no_calls(
    store: Store, span: Callable[..., bytes]
) -> None:
    store.put(span(1, answer="chatcmpl-517"), span(2, answer="chatcmpl-517"))  # Ollama draws a number below 999
    store.put(span(3, answer="chatcmpl-517"))
    store.settle()
    assert store.rows() == [(1, True, ""), (2, True, ""), (3, True, "")]


def test_a_span_sent_again_in_another_batch_vanishes_from_money_and_counts(
    store: Store, span: Callable[..., bytes]
) -> None:
    store.put(span(1), span(2))
    store.put(span(2), span(3))
    store.settle()
    assert store.rows() == [(1, True, ""), (2, True, ""), (2, False, "replayed"), (3, True, "")]
    assert store.totals() == (3, 3 * USD)


def test_a_span_twice_in_one_body_is_billed_once(store: Store, span: Callable[..., bytes]) -> None:
    store.put(span(1), span(1))
    store.settle()
    assert store.rows() == [(1, True, ""), (1, False, "replayed")]


def test_a_router_yields_to_its_three_calls_and_siblings_are_different_calls(
    store: Store, span: Callable[..., bytes]
) -> None:
    store.put(span(1), *(span(n, parent=1) for n in (2, 3, 4)), span(8, parent=7), span(9, parent=7))
    store.settle()
    assert [row[:2] for row in store.rows()] == [(1, False), (2, True), (3, True), (4, True), (8, True), (9, True)]


def test_an_embedding_inside_a_chat_and_marks_of_the_sdk_are_left_alone(
    store: Store, span: Callable[..., bytes]
) -> None:
    store.put(span(1), span(2, parent=1, operation="embeddings"), span(3, is_unbilled=True), span(4, parent=3))
    store.settle()
    assert store.rows() == [(1, True, ""), (2, True, ""), (3, False, "nested"), (4, True, "")]


def test_two_tenants_with_one_response_id_are_two_calls(
    store: Store, span: Callable[..., bytes], tmp_path: Path
) -> None:
    other = Store(store.warehouse, tmp_path / "other", uuid.uuid4().hex)
    for one in (store, other):
        one.put(span(1, answer="the-same-for-both"))
        one.settle()
    assert (store.totals(), other.totals()) == ((1, USD), (1, USD))


def test_what_a_crash_left_undone_is_done_by_the_next_start(
    store: Store, span: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(span(1), span(2, parent=1))
    with monkeypatch.context() as patch:
        patch.setattr(corrections, "store", _dies)
        store.upkeep.settle()
        assert (store.upkeep.failures, store.upkeep.last_error) == (1, "killed")
    store.restart()  # the flusher of the new process inserts nothing: all was inserted before
    store.settle()
    assert store.totals() == (1, USD)


def test_a_round_that_failed_is_repeated_by_the_next_one(
    store: Store, span: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(span(1), span(2, parent=1))
    with monkeypatch.context() as patch:
        patch.setattr(corrections, "store", _dies)
        store.upkeep.settle()
    store.upkeep.settle()
    assert (store.upkeep.failures, store.totals()) == (1, (1, USD))


def _dies(*_: object) -> None:
    raise WarehouseError("killed")


def test_late_money_and_corrections_reach_the_sums_of_an_hour_that_was_rolled(
    store: Store, span: Callable[..., bytes]
) -> None:
    store.put(span(1))
    store.settle()
    assert rollup.rolled_until(store.warehouse) > datetime(2026, 9, 20, 11, tzinfo=timezone.utc)
    store.put(span(2, at=AT + MINUTE), span(3, parent=2, at=AT + MINUTE))
    store.settle()
    assert store.totals() == (2, 2 * USD)
    hours = store.warehouse._client().query(
        f"SELECT sum(calls), sum(unbilled_other) FROM hourly WHERE tenant = '{store.tenant}' AND grain = 0 "
        "AND (hour, rolled_at) IN (SELECT hour, max(at) FROM upkeep WHERE note = 'rolled' GROUP BY hour)"
    )
    assert hours.result_rows == [(2, 1)]


def test_rows_that_come_when_another_collector_has_rolled_their_hour_reach_its_sums(
    served_warehouse: Warehouse, span: Callable[..., bytes], tmp_path: Path
) -> None:
    store = Store(served_warehouse, tmp_path / "spool", uuid.uuid4().hex)
    store.put(span(1))
    store.settle()
    store.upkeep._rolled_until = rollup.EPOCH  # as far as this one had got before the other went on
    store.put(span(2))
    store.settle()
    assert store.totals() == (2, 2 * USD)


def test_corrections_on_a_cluster_name_nothing_that_only_one_node_has(
    clustered_warehouse: Warehouse, tmp_path: Path, span: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, render = list[str](), Cluster.render

    def rendered(cluster: Cluster, statement: str) -> list[str]:
        run.extend(render(cluster, statement))
        return render(cluster, statement)

    monkeypatch.setattr(Cluster, "render", rendered)
    monkeypatch.setattr(corrections, "NAMED", 2)
    store = Store(clustered_warehouse, tmp_path / "spool", uuid.uuid4().hex)
    store.put(span(1), *(span(n, parent=1) for n in (2, 3)), span(4), span(5, parent=4), span(6), span(7, parent=6))
    store.settle()
    assert [row[:2] for row in store.rows()] == [(n, n not in (1, 4, 6)) for n in range(1, 8)]
    changes = [one for one in run if one.startswith("UPDATE requests_local ON CLUSTER one")]
    assert len(changes) == 2 and not any("stage" in one for one in changes)


def test_corrections_survive_merges_and_a_repair_that_removes_rows(store: Store, span: Callable[..., bytes]) -> None:
    store.put(span(1), span(2, parent=1))
    store.settle()
    corrections.materialise(store.warehouse, 4e9)
    assert store.rows() == [(1, False, "duplicate"), (2, True, "")]
    store.warehouse.command("OPTIMIZE TABLE requests FINAL")
    assert store.rows() == [(1, False, "duplicate"), (2, True, "")]
    store.warehouse.command(f"DELETE FROM requests WHERE tenant = '{store.tenant}' AND span_id = '{2:016x}'")
    assert store.rows() == [(1, False, "duplicate")]


def test_spans_of_clocks_gone_wrong_hide_no_row_that_is_merged_with_them(
    store: Store, span: Callable[..., bytes]
) -> None:
    store.put(span(8, at=1), span(9, at=2**63 - 1))  # of 1970 and of 2262
    store.settle()
    store.put(span(1), span(2, parent=1))
    store.warehouse.command("OPTIMIZE TABLE requests FINAL")
    store.settle()
    assert store.rows() == [(1, False, "duplicate"), (2, True, ""), (8, True, ""), (9, True, "")]
    assert store.totals() == (1, USD)
    store.put(span(9, at=2**63 - 1))
    store.settle()
    assert store.rows()[3:] == [(9, True, ""), (9, False, "replayed")]


def test_rows_of_a_clock_that_stood_in_1970_are_compared_without_the_years_in_between(
    store: Store, span: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for received_ms, spans in ((1000, (span(1), span(2, parent=1))), (AT // 10**6, (span(3), span(4, parent=3)))):
        body = otlp.traces([("service.name", "shop")], "test", "1", spans)
        digest = segment.digest(store.tenant, body)
        store.spool.append([segment.frame(store.tenant, body, received_ms, digest)])
    store.flusher.flush()  # one segment, of [1970, 2026]
    compared: list[int] = []
    slots_of = corrections.slots_of

    def noted(warehouse: Warehouse, received: tuple[int, int]) -> list[datetime]:
        found = slots_of(warehouse, received)
        compared.append(len(found))
        return found

    monkeypatch.setattr(corrections, "slots_of", noted)
    store.settle()
    assert store.rows() == [(1, False, "duplicate"), (2, True, ""), (3, False, "duplicate"), (4, True, "")]
    assert len(compared) >= 2 and all(compared)  # each comparison had rows to compare


def test_the_receive_times_of_a_segment_are_read_from_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "one.otlp"
    frames = [segment.frame("acme", b"x" * size, 1_795_000_000_000 + size, b"d" * 16) for size in (0, 7, 300_000)]
    path.write_bytes(b"".join(frames))
    assert segment.received_ms(path) == (1_795_000_000_000, 1_795_000_300_000)
    path.write_bytes(frames[1])
    assert segment.received_ms(path) == (1_795_000_000_007, 1_795_000_000_007)
    path.write_bytes(segment.hollow(frames[1]) + frames[2])
    assert segment.received_ms(path) == (1_795_000_300_000, 1_795_000_300_000)
    path.write_bytes(frames[1] + segment.hollow(frames[0]) + frames[2] + segment.hollow(frames[0]))
    assert segment.received_ms(path) == (1_795_000_000_007, 1_795_000_300_000)
    path.write_bytes(segment.hollow(frames[1]))
    assert segment.received_ms(path) is None
    path.write_bytes(b"")
    assert segment.received_ms(path) is None


def test_the_flusher_says_what_came_in_and_until_when_nothing_is_missing(
    store: Store, span: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(span(1))
    ((first, last),), complete = store.flusher.fresh()
    assert first == last <= complete
    with monkeypatch.context() as patch:
        patch.setattr(store.warehouse, "insert_otlp", _dies)
        store.put(span(2))
    assert store.flusher.fresh() == ([], complete)
    store.flusher.flush()
    found, later = store.flusher.fresh()
    assert (len(found), later > complete) == (1, True)
