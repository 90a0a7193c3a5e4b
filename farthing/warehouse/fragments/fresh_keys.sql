-- What do rows received over [since, until) have in common with other rows that may make them one call?
-- A part is a hash times four, plus 2 for what is the row's own and 1 for a fresh row; a key is the hash's last 62 bits.
-- Equal keys lie side by side once they are sorted, and only those are grouped. [a group a key takes twice the CPU]
SELECT bitShiftRight(part, 2) AS key
FROM (
    SELECT arrayJoin(arrayFilter((part, step, next) -> step = 0 OR next = 0, parts, steps, arrayShiftLeft(steps, 1, 1))) AS part
    FROM (
        SELECT
            parts,
            arrayDifference(arrayMap(part -> bitShiftRight(part, 2), parts)) AS steps -- the first is 0 and says nothing
        FROM (
            SELECT arraySort(groupArray(part + is_fresh)) AS parts
            FROM (
                SELECT
                    received_at >= fromUnixTimestamp64Milli({since_ms:Int64}) AND received_at < fromUnixTimestamp64Milli({until_ms:Int64}) AS is_fresh,
                    arrayJoin([
                        if(span_id = '', 0, 4 * cityHash64(tenant, trace_id, span_id, operation = 'embeddings') + 2), -- '' is nobody's
                        if(parent_span_id = '', 0, 4 * cityHash64(tenant, trace_id, parent_span_id, operation = 'embeddings')),
                        if({{no_answer}}, 0, 4 * cityHash64(tenant, response_id) + 2)
                    ]) AS part
                FROM requests
                WHERE (billed OR unbilled_reason IN ('duplicate', 'replayed'))
                  AND ({is_wide:Bool} OR is_fresh)
                  AND (NOT {is_wide:Bool} OR toStartOfFifteenMinutes(started_at, 'UTC') IN {slots:Array(DateTime('UTC'))})
            )
            WHERE part != 0
            GROUP BY bitShiftRight(part, 56) -- so that no array grows without bound
        )
    )
)
GROUP BY key
HAVING count() > 1
   AND max(bitAnd(part, 2)) = 2 -- children whose parent is no call of this store have nothing in common
   AND max(bitAnd(part, 1)) = 1
