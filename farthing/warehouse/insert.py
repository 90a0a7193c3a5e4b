"""Segments into the store: a file of length-delimited OTLP bodies becomes rows once, however often it is tried.

A token lets the store recognise a segment that it took; it is trusted within one attempt's reach only. Once an attempt
may have been cut off, the rows decide: a store may lose rows and keep their token, or forget a token past its window.
"""
from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Protocol

from farthing.warehouse import repair, sql
from farthing.warehouse.lane import Lane

_INSERT = {  # of a segment: one thread and fixed blocks, so that every attempt cuts it into the same ones
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "async_insert": 0,
    "max_insert_threads": 1,
    "max_threads": 1,
    "max_block_size": 65_409,
    "min_insert_block_size_rows": 1_048_449,
    "min_insert_block_size_bytes": 268_402_944,
    "max_partitions_per_insert_block": 0,
    "input_format_allow_errors_num": 0,
    # The views are planned anew in every insert, and what would improve the plan costs more than it saves on a segment.
    # [60 ms of planning -> 37 ms]
    "query_plan_enable_optimizations": 0,
    "optimize_and_compare_chain": 0,
    "compile_expressions": 0,
    # Merges build these anew anyway. Until then a question by an attribute reads the new parts as a whole.
    # [2 µs a span]
    "exclude_materialize_skip_indexes_on_insert": "idx_attr_key,idx_attr_value,idx_log_attr_key,idx_log_attr_value",
}
_STAGE_KEPT_S = 86_400  # seconds after which a stage that a crash left on a server is dropped


class Store(repair.Store, Protocol):
    """What an insert needs of the store."""

    @property
    def database(self) -> str: ...

    @property
    def path(self) -> Path | None: ...


def insert(store: Store, segment: Path, token: str, lane: Lane) -> None:
    """Insert a segment; the same token twice is stored once, within the tables' deduplication window."""
    settings = {"insert_deduplication_token": token, **_INSERT, **protobuf(store.path is not None, lane)}
    if store.path is None:
        settings["query_id"] = f"{_query_id(token)}-{uuid.uuid4().hex[:8]}"
        store.client.raw_insert(lane.table, insert_block=segment.read_bytes(), fmt="Protobuf", settings=settings)
        return
    source = f"FROM INFILE {sql.literal(str(segment))} SETTINGS {sql.pairs(settings)}"
    store.client.command(f"INSERT INTO {lane.table} {source} FORMAT Protobuf")


def insert_again(store: Store, segment: Path, token: str, lane: Lane) -> None:
    """Insert a segment that an earlier attempt may have inserted, wholly, in part or not.

    What still runs of that attempt is stopped first. A server is then given the same token once more, because that
    fills exactly what is missing; where the rows do not agree even then, they are removed and come under a new token.
    """
    if store.path is None:
        store.change(f"KILL QUERY WHERE startsWith(query_id, {sql.literal(_query_id(token))}) SYNC")
    with source(store, segment, lane) as (rows, settings), repair.Comparison(store, lane, rows, settings) as comparison:
        if comparison.is_whole():
            return
        if store.path is None:
            insert(store, segment, token, lane)
            if comparison.is_whole():
                return
        comparison.remove()
    insert(store, segment, f"{token}-{time.time_ns()}", lane)


def check(store: Store, segment: Path, lane: Lane) -> None:
    """Do what an insert would do, and store nothing; the store's error says what it refuses."""
    with source(store, segment, lane) as (rows, settings):
        for target in lane.targets:
            statement = target.rows(rows).replace("{{database}}", store.database)
            store.client.command(f"SELECT * FROM ({statement}) {settings} FORMAT Null")


def names(store: Store, segment: Path, lane: Lane) -> set[tuple[str, str, bool]]:
    """Return the distinct (provider, model, whether it is a model call's) that the bodies of a segment name."""
    if lane.names is None:
        return set()
    with source(store, segment, lane) as (rows, settings):
        found = store.rows(f"{lane.names(rows)} {settings}")
    return {(provider, model, bool(is_call)) for provider, model, is_call in found}


@contextmanager
def source(store: Store, segment: Path, lane: Lane) -> Generator[tuple[str, str]]:
    """Yield SQL that reads a segment, and the settings that it needs."""
    if store.path is not None:
        path = sql.literal(str(segment))
        yield f"file({path}, Protobuf, '{lane.structure}')", f"SETTINGS {sql.pairs(protobuf(True, lane))}"
        return
    stage = f"otlp_stage_{int(time.time())}_{uuid.uuid4().hex}"  # on a server several collectors compare at once
    store.client.command(f"CREATE TABLE {stage} ({lane.structure}) ENGINE = Memory")
    try:
        settings = protobuf(False, lane)
        store.client.raw_insert(stage, insert_block=segment.read_bytes(), fmt="Protobuf", settings=settings)
        yield stage, ""
    finally:
        store.client.command(f"DROP TABLE IF EXISTS {stage}")


def drop_old_stages(store: Store) -> None:
    """Drop what a crashed process left on a server while it compared."""
    before = int(time.time()) - _STAGE_KEPT_S
    names = store.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'Memory' "
        f"AND toUInt64OrZero(extract(name, '^otlp_(?:stage|again)_(\\\\d+)_')) BETWEEN 1 AND {before}"
    )
    for (name,) in names:
        store.client.command(f"DROP TABLE IF EXISTS {name}")


def protobuf(is_embedded: bool, lane: Lane) -> Mapping[str, object]:
    """Return the settings that name the OTLP schema; text for a server, which then needs no file of ours.

    Embedded, the text would be cached as a file in the working folder, so the file itself is named.
    """
    if is_embedded:
        path = resources.files("farthing.warehouse").joinpath("schema", "otlp.proto")
        return {"format_schema": f"{path}:{lane.message}"}
    return {
        "format_schema_source": "string",
        "format_schema": sql.text("schema", "otlp.proto"),
        "format_schema_message_name": lane.message,
    }


def _query_id(token: str) -> str:
    return f"farthing-{token}"
