-- What the collector's upkeep needs: rows of `requests` that can be corrected one by one, and its own notes.
-- The two columns name a row for good, through merges, and let a correction be stored beside the part it is about.
ALTER TABLE requests MODIFY SETTING enable_block_number_column = 1, enable_block_offset_column = 1
;
ALTER TABLE requests ADD INDEX IF NOT EXISTS idx_received_at received_at TYPE minmax GRANULARITY 1
;
CREATE TABLE IF NOT EXISTS upkeep (
    note LowCardinality(String),  -- swept | rolled_until | rolled | stale
    hour DateTime('UTC'),         -- of `rolled` and `stale`, else 1970
    at   DateTime64(6, 'UTC')     -- swept: all that was received before was compared with the rows near it
                                  -- rolled_until: all earlier hours are in `hourly`
                                  -- rolled: the version of the hour that counts; stale: when it was noted as changed
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (note, hour)
