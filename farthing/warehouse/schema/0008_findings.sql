-- What the analyzer found, one row per finding and run; the newest run of a kind is its current state.
CREATE TABLE IF NOT EXISTS findings (
    found_at      DateTime64(3),
    run_id        String,
    tenant        LowCardinality(String),
    kind          LowCardinality(String),      -- cost_driver | cache_waste
    subject       String,                      -- what it is about: a model, a team, a request hash
    title         String,
    detail        String,                      -- one sentence for people
    since         DateTime64(3),
    until         DateTime64(3),
    requests      UInt64,
    cost_usd      Decimal(18, 9),              -- spend that the finding is about
    avoidable_usd Decimal(18, 9),              -- predicted saving over [since, until); 0 = none claimed
    evidence      String                       -- JSON, for the page that explains it
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(found_at)
ORDER BY (tenant, kind, found_at)
