-- Prices by service tier and for any number of size tiers; the book is filled anew at each start, so it can go.
DROP VIEW IF EXISTS requests_mv;
DROP DICTIONARY IF EXISTS prices;
DROP TABLE IF EXISTS price_book;

CREATE TABLE IF NOT EXISTS price_book (
    provider     String,
    model        String,
    service_tier String,                -- '' = the standard one
    valid_from   Date32,
    valid_to     Date32,                -- inclusive
    rates        Array(UInt64),         -- for each size tier, the smallest first: input tokens past which it holds for the
                                        -- whole call (0 = base), then nUSD per million tokens of each kind of `Rates`
    version      String,                -- where the price comes from
    updated_at   DateTime64(6) DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (provider, model, service_tier, valid_from);

-- The price book as the views look it up: one text of 64-bit numbers a price.
CREATE DICTIONARY IF NOT EXISTS prices (
    provider     String,
    model        String,
    service_tier String,
    valid_from   Date32,
    valid_to     Date32,
    price        String
)
PRIMARY KEY provider, model, service_tier
SOURCE(CLICKHOUSE({{login}}QUERY 'SELECT provider, model, service_tier, valid_from, valid_to, {{packed_price}} AS price FROM {{database}}.price_book FINAL'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_to)
LIFETIME(0);

-- Prices that people added while it ran; what was added is never changed, a later one takes its place.
CREATE TABLE IF NOT EXISTS own_prices (
    added_at     DateTime64(6),
    added_by     LowCardinality(String),
    reason       String,
    provider     String,
    model        String,
    service_tier String,
    valid_from   Date32,
    price        String                 -- JSON: USD per million tokens of each kind, and of each size tier
)
ENGINE = MergeTree
ORDER BY added_at;

-- What `farthing reprice` did, one row a run.
CREATE TABLE IF NOT EXISTS repricings (
    repriced_at  DateTime64(6),
    repriced_by  LowCardinality(String),
    reason       String,
    since        DateTime64(6),
    until        DateTime64(6),
    model        String,                -- '' = all
    rows         UInt64,
    changed      UInt64,
    old_usd      Decimal(18, 9),        -- of the billed rows
    new_usd      Decimal(18, 9)
)
ENGINE = MergeTree
ORDER BY repriced_at
