-- Resolved prices: nUSD per million tokens per (provider, model), each for a range of days.
CREATE TABLE IF NOT EXISTS price_book (
    provider         String,
    model            String,
    valid_from       Date32,
    valid_to         Date32,           -- inclusive
    input            UInt64,           -- uncached input
    cache_read       UInt64,
    cache_write      UInt64,
    output           UInt64,           -- reasoning included
    tier_over        UInt64,           -- input tokens past which the tier_ prices hold for the whole call; 0 = no tier
    tier_input       UInt64,
    tier_cache_read  UInt64,
    tier_cache_write UInt64,
    tier_output      UInt64,
    version          String,           -- where the price comes from
    updated_at       DateTime64(6) DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (provider, model, valid_from)
