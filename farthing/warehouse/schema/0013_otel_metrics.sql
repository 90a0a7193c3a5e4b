-- One row per data point of a metric that tells of model calls or GPUs; never a source of billed rows.
CREATE TABLE IF NOT EXISTS otel_metrics (
    tenant              LowCardinality(String),
    received_at         DateTime64(3) CODEC(Delta(8), ZSTD(1)),
    time                DateTime64(9) CODEC(Delta(8), ZSTD(1)),
    start_time          DateTime64(9) CODEC(Delta(8), ZSTD(1)),  -- of the stream; 1970 = the sender does not know
    service             LowCardinality(String),
    scope               LowCardinality(String),
    name                LowCardinality(String),
    unit                LowCardinality(String),
    kind                LowCardinality(String),                  -- gauge | sum | histogram | exponential_histogram | summary
    temporality         LowCardinality(String),                  -- delta | cumulative; empty for a gauge
    monotonic           Bool,
    series              UInt64,                                  -- hash of resource, scope, name, unit, kind and attributes
    value               Nullable(Float64),                       -- of a gauge or a sum; NULL = flagged as not recorded
    count               Nullable(UInt64),
    sum                 Nullable(Float64),
    min                 Nullable(Float64),
    max                 Nullable(Float64),
    bounds              Array(Float64) CODEC(ZSTD(1)),           -- upper bounds of a histogram's buckets; a summary's quantiles
    bucket_counts       Array(UInt64) CODEC(ZSTD(1)),            -- one more than bounds; the positive ones of an exponential one
    scale               Int32,                                   -- of an exponential histogram: base = 2 ** (2 ** -scale)
    zero_count          UInt64,
    positive_offset     Int32,
    negative_offset     Int32,
    negative_counts     Array(UInt64) CODEC(ZSTD(1)),
    quantile_values     Array(Float64) CODEC(ZSTD(1)),
    operation           LowCardinality(String),
    provider            LowCardinality(String),
    model               LowCardinality(String),
    token_type          LowCardinality(String),                  -- input | output | cacheRead | … as the sender names it
    gpu_uuid            LowCardinality(String),
    gpu_index           LowCardinality(String),
    resource_attributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    attributes          Map(LowCardinality(String), String) CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant, name, series, time)
SETTINGS
    non_replicated_deduplication_window = 10000,
    ttl_only_drop_parts = 1,
    min_rows_to_fsync_after_merge = 1,              -- a merge replaces parts that a sync has made durable
    min_compressed_bytes_to_fsync_after_merge = 1,
    fsync_part_directory = 1
