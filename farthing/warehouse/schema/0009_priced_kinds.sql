-- The kinds of token that have a price of their own, and the service tier that a price is looked up by.
ALTER TABLE requests
    ADD COLUMN IF NOT EXISTS cache_write_1h_tokens Nullable(UInt32) AFTER cache_write_tokens,      -- not in cache_write_tokens
    ADD COLUMN IF NOT EXISTS input_audio_tokens    Nullable(UInt32) AFTER cache_write_1h_tokens,   -- not in input_uncached
    ADD COLUMN IF NOT EXISTS cache_audio_tokens    Nullable(UInt32) AFTER input_audio_tokens,      -- not in cache_read_tokens
    ADD COLUMN IF NOT EXISTS output_audio_tokens   Nullable(UInt32) AFTER output_tokens,           -- a part of output_tokens
    ADD COLUMN IF NOT EXISTS service_tier          LowCardinality(String) AFTER deployment         -- '' = the standard one
