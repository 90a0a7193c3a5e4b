-- What do rows received over [since, until) have in common with other rows that may make them one call?
SELECT key
FROM (
    SELECT
        arrayJoin([
            (cityHash64(tenant, trace_id, span_id, operation = 'embeddings'), 1),
            (if(parent_span_id = '', 0, cityHash64(tenant, trace_id, parent_span_id, operation = 'embeddings')), 0),
            (if(response_id = '' OR (cache_hit != '' AND scope != 'farthing.proxy'), 0, cityHash64(tenant, response_id)), 1)
        ])     AS part,
        part.1 AS key,
        received_at >= fromUnixTimestamp64Milli({since_ms:Int64}) AND received_at < fromUnixTimestamp64Milli({until_ms:Int64}) AS is_fresh
    FROM requests
    WHERE (billed OR unbilled_reason IN ('duplicate', 'replayed'))
      AND ({is_wide:Bool} OR is_fresh)
      AND (NOT {is_wide:Bool} OR toStartOfFifteenMinutes(started_at, 'UTC') IN {slots:Array(DateTime('UTC'))})
)
WHERE key != 0
GROUP BY key
HAVING count() > 1
   AND max(part.2) = 1 -- children whose parent is no call of this store have nothing in common
   AND max(is_fresh)
