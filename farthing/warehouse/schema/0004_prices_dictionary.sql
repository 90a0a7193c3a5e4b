-- The price book as the views look it up.
CREATE DICTIONARY IF NOT EXISTS prices (
    provider         String,
    model            String,
    valid_from       Date32,
    valid_to         Date32,
    input            UInt64,
    cache_read       UInt64,
    cache_write      UInt64,
    output           UInt64,
    tier_over        UInt64,
    tier_input       UInt64,
    tier_cache_read  UInt64,
    tier_cache_write UInt64,
    tier_output      UInt64,
    version          String
)
PRIMARY KEY provider, model
SOURCE(CLICKHOUSE({{login}}QUERY 'SELECT provider, model, valid_from, valid_to, input, cache_read, cache_write, output, tier_over, tier_input, tier_cache_read, tier_cache_write, tier_output, version FROM {{database}}.price_book FINAL'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_to)
LIFETIME(0)
