-- Sums over the model calls of an hour, recomputed whenever rows of the hour come late or are corrected.
-- `grain` says what a cell is split by, so that a question reads no finer cells than it needs. A version that
-- `upkeep` does not name is not in force.
CREATE TABLE IF NOT EXISTS hourly (
    tenant                 LowCardinality(String),
    grain                  UInt8,                              -- 0 = nothing, 1 = team, 2 = provider and model, 3 = both
    hour                   DateTime('UTC'),                    -- of started_at
    team                   LowCardinality(String),
    provider               LowCardinality(String),
    model                  LowCardinality(String),
    is_refused             Bool,                               -- cells of calls that were not let through
    rolled_at              DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    spans                  UInt64 CODEC(ZSTD(1)),              -- rows of `requests`, unbilled ones included
    calls                  UInt64 CODEC(ZSTD(1)),              -- billed ones; all that follows is of these unless it says so
    cost_usd               Nullable(Decimal(38, 9)) CODEC(ZSTD(1)),   -- NULL = none has a price
    saved_usd              Nullable(Decimal(38, 9)) CODEC(ZSTD(1)),
    input_tokens           Nullable(UInt64) CODEC(ZSTD(1)),    -- of calls that no cache answered
    output_tokens          Nullable(UInt64) CODEC(ZSTD(1)),
    cache_read_tokens      Nullable(UInt64) CODEC(ZSTD(1)),
    cache_write_tokens     Nullable(UInt64) CODEC(ZSTD(1)),
    reasoning_tokens       Nullable(UInt64) CODEC(ZSTD(1)),
    cache_hits             UInt64 CODEC(ZSTD(1)),
    unpriced               UInt64 CODEC(ZSTD(1)),
    unpriced_input_tokens  Nullable(UInt64) CODEC(ZSTD(1)),
    unpriced_output_tokens Nullable(UInt64) CODEC(ZSTD(1)),
    unpriced_last_at       DateTime64(6) CODEC(ZSTD(1)),       -- 1970 = none is unpriced
    unknown_usage          UInt64 CODEC(ZSTD(1)),
    estimated_usage        UInt64 CODEC(ZSTD(1)),
    half_usage             UInt64 CODEC(ZSTD(1)),              -- priced on one side only
    replayed               UInt64 CODEC(ZSTD(1)),              -- from a trace file
    errors                 UInt64 CODEC(ZSTD(1)),
    timed                  UInt64 CODEC(ZSTD(1)),              -- calls whose duration counts, see hourly_latency
    engine_s               Nullable(Float64) CODEC(ZSTD(1)),
    unbilled_proxy         UInt64 CODEC(ZSTD(1)),              -- rows without money
    unbilled_nested        UInt64 CODEC(ZSTD(1)),
    unbilled_other         UInt64 CODEC(ZSTD(1)),
    first_at               DateTime64(6) CODEC(ZSTD(1)),       -- of all rows, as the next two
    last_at                DateTime64(6) CODEC(ZSTD(1)),
    received_at            DateTime64(3) CODEC(ZSTD(1))        -- the latest
)
ENGINE = MergeTree
ORDER BY (tenant, grain, hour, team, provider, model, is_refused)
;
-- How many calls of an hour took how long: a histogram of bins 2 % wide, one row per bin that has calls. Rows add
-- up thirty times faster than states of an aggregate function merge, and a team's or a model's lie together.
CREATE TABLE IF NOT EXISTS hourly_latency (
    tenant    LowCardinality(String),
    grain     UInt8,                                   -- as in hourly
    measure   Enum8('duration' = 1, 'ttft' = 2),
    team      LowCardinality(String),
    provider  LowCardinality(String),
    model     LowCardinality(String),
    hour      DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    bin       Int16 CODEC(Delta(2), ZSTD(1)),          -- ceil(ln(seconds) / ln(1.01 / 0.99)); -1100 = no time at all
    rolled_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    calls     UInt32 CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (tenant, grain, measure, team, provider, model, hour, bin)
