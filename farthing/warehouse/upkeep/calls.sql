-- Which rows describe a call that another row describes too, perhaps, and what does the choice between them need?
WITH keys AS (
{{fresh_keys}}
)
SELECT
    toUnixTimestamp64Micro(started_at)  AS started_us,
    _block_number,
    _block_offset,
    cityHash64(tenant, trace_id, span_id, operation = 'embeddings') AS span,
    if(parent_span_id = '', 0, cityHash64(tenant, trace_id, parent_span_id, operation = 'embeddings')) AS parent, -- an embedding inside a chat is no part of it
    if({{no_answer}}, 0, cityHash64(tenant, response_id)) AS response,
    multiIf(scope = 'farthing.proxy', 8, 0)
        + multiIf(usage_source IN ('provider', 'proxy'), 4, usage_source IN ('estimate', 'tokenizer'), 2, 0)
        + (price_state = 'priced')      AS rank,
    toUnixTimestamp64Milli(received_at) AS received_ms,
    multiIf(billed, 0, unbilled_reason = 'duplicate', 1, 2) AS verdict
FROM requests
WHERE (billed OR unbilled_reason IN ('duplicate', 'replayed'))
  AND ({is_wide:Bool} OR (
      received_at >= fromUnixTimestamp64Milli({since_ms:Int64})
      AND received_at < fromUnixTimestamp64Milli({until_ms:Int64})
  ))
  -- not of toDateTime(started_at): it wraps after 2106, and the index then leaves out parts that hold such a row
  AND (NOT {is_wide:Bool} OR toStartOfFifteenMinutes(started_at, 'UTC') IN {slots:Array(DateTime('UTC'))})
  AND (
      bitAnd(span, 4611686018427387903) IN (SELECT key FROM keys)
      OR bitAnd(parent, 4611686018427387903) IN (SELECT key FROM keys)
      OR bitAnd(response, 4611686018427387903) IN (SELECT key FROM keys)
  )
