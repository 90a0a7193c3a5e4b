-- Name of the virtual key that a call came to the proxy with; empty for none.
ALTER TABLE requests ADD COLUMN IF NOT EXISTS api_key LowCardinality(String) CODEC(ZSTD(1)) AFTER session
