-- Who bills which calls, whoever their spans name: the rules of `servers` in farthing.toml, as the collector read them.
CREATE TABLE IF NOT EXISTS server_rules (
    set_at    DateTime64(6),
    patterns  Array(String),            -- one a rule, in their order: an expression of farthing/servers.py
    billed_by Array(String)             -- the provider of each; * = the one that the span names
)
ENGINE = MergeTree
ORDER BY set_at;

-- The newest of them as the views look them up.
CREATE DICTIONARY IF NOT EXISTS servers (
    id        UInt64,
    patterns  Array(String),
    billed_by Array(String)
)
PRIMARY KEY id
SOURCE(CLICKHOUSE({{login}}QUERY 'SELECT toUInt64(0) AS id, argMax(patterns, set_at) AS patterns, argMax(billed_by, set_at) AS billed_by FROM {{database}}.server_rules'))
LAYOUT(FLAT())
LIFETIME(0)
