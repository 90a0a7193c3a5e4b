-- One typed, normalised, priced row per model call that a span describes; money questions ask WHERE billed.
CREATE TABLE IF NOT EXISTS requests (
    started_at           DateTime64(6) CODEC(Delta(8), ZSTD(1)),
    tenant               LowCardinality(String),
    team                 LowCardinality(String),
    user                 String CODEC(ZSTD(1)),
    feature              LowCardinality(String),
    session              String CODEC(ZSTD(1)),
    tags                 Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    service              LowCardinality(String),
    scope                LowCardinality(String),
    operation            LowCardinality(String),
    provider             LowCardinality(String),
    model                LowCardinality(String),           -- the model that is priced
    request_model        LowCardinality(String),
    response_model       LowCardinality(String),
    routed_from          LowCardinality(String),           -- the model asked for, where a policy sent the call elsewhere
    deployment           LowCardinality(String),
    input_tokens         Nullable(UInt32),                 -- total; NULL = nobody reported it
    input_uncached       Nullable(UInt32),                 -- the four kinds of input are disjoint and sum to the total
    cache_read_tokens    Nullable(UInt32),
    cache_write_tokens   Nullable(UInt32),
    output_tokens        Nullable(UInt32),                 -- total, reasoning included
    reasoning_tokens     Nullable(UInt32),
    usage_source         LowCardinality(String),           -- provider | proxy | tokenizer | estimate | missing
    cost_usd             Nullable(Decimal(18, 9)),         -- NULL = unpriced or usage unknown
    saved_usd            Nullable(Decimal(18, 9)),         -- what a response served from the cache would have cost
    price_state          LowCardinality(String),           -- priced | unpriced | no_usage | cached | refused
    price_version        LowCardinality(String),
    settled_usd          Nullable(Decimal(18, 9)),         -- what the ledger was charged
    billed               Bool,                             -- false = another row of the same call carries the money
    unbilled_reason      LowCardinality(String),           -- proxy | nested
    duration_s           Float64 CODEC(ZSTD(1)),
    ttft_s               Nullable(Float32),
    engine_s             Nullable(Float64),                -- seconds of engine steps charged to this request
    engine_queue_s       Nullable(Float64),
    stream               Bool,
    temperature          Nullable(Float32),
    cache_hit            LowCardinality(String),           -- exact; empty = miss
    outcome              LowCardinality(String),           -- ok | error | aborted | refused
    error_type           LowCardinality(String),
    finish_reason        LowCardinality(String),
    policies             Array(LowCardinality(String)),
    policy_version       UInt32,
    request_id           String CODEC(ZSTD(1)),
    request_hash         String CODEC(ZSTD(1)),            -- keyed hash of the canonical request, hex
    prefix_hashes        Array(String) CODEC(ZSTD(1)),
    response_id          String CODEC(ZSTD(1)),
    trace_id             String CODEC(ZSTD(1)),
    span_id              String CODEC(ZSTD(1)),
    parent_span_id       String CODEC(ZSTD(1)),
    received_at          DateTime64(3) CODEC(Delta(8), ZSTD(1)),
    INDEX idx_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (started_at, trace_id, span_id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    ttl_only_drop_parts = 1,
    min_bytes_for_wide_part = 134217728,            -- an insert as one file of columns: 3 to 8 µs of system time a span less
    min_rows_to_fsync_after_merge = 1,              -- a merge replaces parts that a sync has made durable
    min_compressed_bytes_to_fsync_after_merge = 1,
    fsync_part_directory = 1
