-- Rows whose verdict is not what it should be get the right one, as far as they lie in these places.
UPDATE requests
SET
    billed = ({verdict:UInt8} = 0),
    unbilled_reason = {reason:String}
WHERE started_at >= fromUnixTimestamp64Micro({first_us:Int64})
  AND started_at <= fromUnixTimestamp64Micro({last_us:Int64})
  AND (billed OR unbilled_reason IN ('duplicate', 'replayed'))
  AND (_block_number, _block_offset, cityHash64(tenant, trace_id, span_id, operation = 'embeddings')) IN
