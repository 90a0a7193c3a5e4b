-- Input that an upstream was not asked for because a cache had its answer, of calls that an upstream answered in part.
ALTER TABLE requests
    ADD COLUMN IF NOT EXISTS saved_input_tokens UInt32 CODEC(ZSTD(1)) AFTER cache_hit  -- beside input_tokens, not in them
