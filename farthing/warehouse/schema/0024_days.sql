-- Whole days beside the hours, so that a question about months reads days and the hours at both ends; what the ledger
-- settled; and models without a price by service tier, whose sums are so few that they need no days.
-- A day's cells lie in the tables of the hours, at midnight and with 4 added to the grain.
ALTER TABLE hourly
    ADD COLUMN IF NOT EXISTS proxied UInt64 CODEC(ZSTD(1)),                            -- calls that came by the proxy
    ADD COLUMN IF NOT EXISTS proxied_usd Nullable(Decimal(38, 9)) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS settled_usd Nullable(Decimal(38, 9)) CODEC(ZSTD(1)),      -- what the ledger took for them
    ADD COLUMN IF NOT EXISTS unlike_ledger UInt64 CODEC(ZSTD(1))                       -- both are known and differ
;
ALTER TABLE hourly
    DROP COLUMN IF EXISTS unpriced_input_tokens,
    DROP COLUMN IF EXISTS unpriced_output_tokens,
    DROP COLUMN IF EXISTS unpriced_last_at
;
CREATE TABLE IF NOT EXISTS hourly_unpriced (
    tenant        LowCardinality(String),
    hour          DateTime('UTC'),
    provider      LowCardinality(String),
    model         LowCardinality(String),
    service_tier  LowCardinality(String),
    rolled_at     DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    calls         UInt64 CODEC(ZSTD(1)),             -- billed ones without a price
    input_tokens  Nullable(UInt64) CODEC(ZSTD(1)),
    output_tokens Nullable(UInt64) CODEC(ZSTD(1)),
    first_at      DateTime64(6) CODEC(ZSTD(1)),
    last_at       DateTime64(6) CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (tenant, hour, provider, model, service_tier)
;
-- What a version was made of: of `rolled`, the newest note that the hour had changed, µs since the epoch, as it stood
-- before the rows were read; of `rolled_day`, a hash of the versions of its hours. So no clock decides what is to be
-- rolled anew. A new note `days_until` says: the days before have cells.
ALTER TABLE upkeep ADD COLUMN IF NOT EXISTS made_of UInt64
;
-- The sums are made anew from the rows, which answer meanwhile.
TRUNCATE TABLE hourly
;
TRUNCATE TABLE hourly_latency
;
DELETE FROM upkeep WHERE note != 'swept'
