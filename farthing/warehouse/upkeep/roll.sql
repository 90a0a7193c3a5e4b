-- Which cells do these hours have, at every grain?
INSERT INTO hourly
SELECT
    tenant,
    if(grouping(team) = 0, 1, 0) + if(grouping(model) = 0, 2, 0) AS grain,
    hour,
    team,
    provider,
    model,
    is_refused,
    fromUnixTimestamp64Micro({rolled_us:Int64} + toInt64(indexOf({hours:Array(DateTime('UTC'))}, hour)), 'UTC') AS rolled_at,
    {{summed_cells}}
FROM (
    SELECT
        tenant,
        toStartOfHour(started_at, 'UTC')                                      AS hour,
        team,
        provider,
        model,
        outcome = 'refused'                                                   AS is_refused,
        count()                                                               AS spans,
        countIf(billed)                                                       AS calls,
        sumIf(requests.cost_usd, billed)                                      AS cost_usd,
        sumIf(requests.saved_usd, billed)                                     AS saved_usd,
        sumIf(requests.input_tokens, billed AND cache_hit = '')               AS input_tokens,
        sumIf(requests.output_tokens, billed AND cache_hit = '')              AS output_tokens,
        sumIf(requests.cache_read_tokens, billed AND cache_hit = '')          AS cache_read_tokens,
        sumIf(requests.cache_write_tokens, billed AND cache_hit = '')         AS cache_write_tokens,
        sumIf(requests.reasoning_tokens, billed AND cache_hit = '')           AS reasoning_tokens,
        countIf(billed AND cache_hit != '')                                   AS cache_hits,
        countIf(billed AND price_state = 'unpriced')                          AS unpriced,
        countIf(billed AND price_state = 'no_usage')                          AS unknown_usage,
        countIf(billed AND usage_source IN ('estimate', 'tokenizer'))         AS estimated_usage,
        countIf(billed AND price_state = 'priced' AND (isNull(requests.input_tokens) OR isNull(requests.output_tokens))) AS half_usage,
        countIf(billed AND scope = 'farthing.replay')                         AS replayed,
        countIf(billed AND outcome = 'error')                                 AS errors,
        countIf(billed AND outcome = 'ok' AND scope != 'farthing.replay')     AS timed,
        sumIf(requests.engine_s, billed)                                      AS engine_s,
        countIf(NOT billed AND unbilled_reason = 'proxy')                     AS unbilled_proxy,
        countIf(NOT billed AND unbilled_reason = 'nested')                    AS unbilled_nested,
        countIf(NOT billed AND unbilled_reason NOT IN ('proxy', 'nested'))    AS unbilled_other,
        min(started_at)                                                       AS first_at,
        max(started_at)                                                       AS last_at,
        max(requests.received_at)                                             AS received_at,
        countIf(billed AND scope = 'farthing.proxy')                          AS proxied,
        sumIf(requests.cost_usd, billed AND scope = 'farthing.proxy')         AS proxied_usd,
        sumIf(requests.settled_usd, billed AND scope = 'farthing.proxy')      AS settled_usd,
        countIf(billed AND scope = 'farthing.proxy' AND isNotNull(requests.settled_usd) AND requests.cost_usd != requests.settled_usd) AS unlike_ledger
    FROM requests
    WHERE started_at >= fromUnixTimestamp64Milli({since_ms:Int64})
      AND started_at < fromUnixTimestamp64Milli({until_ms:Int64})
      -- not of toDateTime(started_at): it wraps after 2106, and the index then leaves out parts that hold such a row
      AND toStartOfHour(started_at, 'UTC') IN {hours:Array(DateTime('UTC'))}
    GROUP BY
        tenant,
        hour,
        team,
        provider,
        model,
        is_refused
)
GROUP BY GROUPING SETS (
    (tenant, hour, is_refused),
    (tenant, hour, is_refused, team),
    (tenant, hour, is_refused, provider, model),
    (tenant, hour, is_refused, team, provider, model)
)
