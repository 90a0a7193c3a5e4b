-- What did each level of cache do over [since, until): answers, embeddings, and an application's tools and components?
SELECT
    level,
    sum(level_lookups)    AS lookups,        -- calls that a cache could have answered
    sum(level_hits)       AS hits,
    sum(level_partial)    AS partial,        -- answered in part: some of the texts of an embeddings request
    sum(level_skipped)    AS skipped,        -- calls that were not to be cached, or could not be
    sum(level_tokens)     AS served_tokens,  -- that no model was asked for; NULL = the level hands out no tokens
    sum(level_bytes)      AS served_bytes,   -- that hits handed out; NULL = the level is not measured in bytes
    sum(level_held)       AS held_bytes,     -- as each function's cache last said; NULL = the proxy tells it on /metrics
    sum(level_evicted)    AS evicted,        -- that made room for others; NULL = the proxy tells it on /metrics
    sum(level_saved_usd)  AS saved_usd,      -- NULL = of no hit is the saving known
    sum(level_unpriced)   AS unpriced_hits,  -- hits whose saving nobody can tell
    sum(level_saved_s)    AS saved_s         -- that the results had taken to make; NULL = unknown
FROM (
    SELECT
        if(operation = 'embeddings', 'embedding', 'response')                            AS level,
        count()                                                                          AS level_lookups,
        countIf(cache_hit != '')                                                         AS level_hits,
        countIf(cache_hit = '' AND saved_input_tokens > 0)                               AS level_partial,
        0                                                                                AS level_skipped,
        toNullable(sumIf(ifNull(input_tokens, 0) + ifNull(output_tokens, 0), cache_hit != '') + sum(saved_input_tokens))
                                                                                         AS level_tokens,
        CAST(NULL AS Nullable(UInt64))                                                   AS level_bytes,
        CAST(NULL AS Nullable(UInt64))                                                   AS level_held,
        CAST(NULL AS Nullable(UInt64))                                                   AS level_evicted,
        CAST(sum(saved_usd) AS Nullable(Decimal(38, 9)))                                 AS level_saved_usd,
        countIf((cache_hit != '' OR saved_input_tokens > 0) AND isNull(saved_usd))       AS level_unpriced,
        CAST(NULL AS Nullable(Float64))                                                  AS level_saved_s
    FROM requests
    WHERE tenant = {tenant:String}
      AND started_at >= {since:DateTime64(3)}
      AND started_at < {until:DateTime64(3)}
      AND billed
      AND scope = 'farthing.proxy'
      AND outcome = 'ok'
      AND {{chosen}}
    GROUP BY level
    UNION ALL
    SELECT
        level,
        sum(lookups),
        sum(hits),
        0,
        sum(skipped),
        NULL,
        sum(bytes),
        sum(held),
        sum(evicted),
        sum(cost),
        sum(unpriced),
        sum(seconds)
    FROM (
        SELECT
            level,
            countIf(ended != 'skipped')                        AS lookups,
            countIf(is_hit)                                    AS hits,
            countIf(ended = 'skipped')                         AS skipped,
            toNullable(sumIf(result_bytes, is_hit))            AS bytes,
            toNullable(argMax(cache_bytes, at))                AS held,
            toNullable(sum(made_room))                         AS evicted,
            sumIf(saved_nusd, is_hit)                          AS nusd,
            toDecimal128(nusd, 9) / 1000000000                 AS cost,
            countIf(is_hit AND isNull(saved_nusd))             AS unpriced,
            toNullable(sumIf(saved_seconds, is_hit))           AS seconds
        FROM (
            SELECT
                SpanAttributes['farthing.cache.level']                           AS level,
                SpanAttributes['farthing.cache.name']                            AS name,
                ServiceName                                                      AS service,
                ResourceAttributes['service.instance.id']                        AS process,
                Timestamp                                                        AS at,
                SpanAttributes['farthing.cache.outcome']                         AS ended,
                ended IN ('hit', 'coalesced')                                    AS is_hit,
                toUInt64OrZero(SpanAttributes['farthing.cache.bytes'])           AS result_bytes,
                toUInt64OrZero(SpanAttributes['farthing.cache.held_bytes'])      AS cache_bytes,
                toUInt64OrZero(SpanAttributes['farthing.cache.evicted'])         AS made_room,
                toInt64OrNull(SpanAttributes['farthing.cache.saved_nusd'])       AS saved_nusd,
                toFloat64OrZero(SpanAttributes['farthing.cache.saved_seconds'])  AS saved_seconds
            FROM otel_traces
            WHERE Tenant = {tenant:String}
              AND Timestamp >= {since:DateTime64(3)}
              AND Timestamp < {until:DateTime64(3)}
              AND mapContains(SpanAttributes, 'farthing.cache.level')     -- idx_attr_key finds the granules
              AND level IN ('tool', 'component')
              AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, SpanAttributes['farthing.team']))
              AND empty({models:Array(String)})                           -- a tool has no model
        )
        GROUP BY
            level,
            name,
            service,
            process
    )
    GROUP BY level
)
GROUP BY level
ORDER BY indexOf(['response', 'embedding', 'tool', 'component'], level)
