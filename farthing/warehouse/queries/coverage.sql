-- How much of [since, until) is known: usage, price and latency, and which rows carry no money?
SELECT
    sum(requests)                          AS requests,
    sum(unpriced)                          AS unpriced,
    sum(unknown_usage)                     AS unknown_usage,
    sum(estimated_usage)                   AS estimated_usage,
    sum(half_usage)                        AS half_usage, -- priced on one side only
    sum(replayed)                          AS replayed,   -- from a trace file; without a duration
    sum(unbilled_proxy)                    AS unbilled_proxy,
    sum(unbilled_nested)                   AS unbilled_nested,
    sum(unbilled_other)                    AS unbilled_other,
    sum(refused)                           AS refused,
    sum(timed)                             AS timed,
    (
        SELECT
            {{percentiles}} AS duration_s
        FROM (
            WITH 0 AS split
            SELECT
                bin,
                sum(calls) AS calls
            FROM hourly_latency
            WHERE tenant = {tenant:String}
              AND measure = 'duration'
              AND {{rolled_cells}}
            GROUP BY bin
            UNION ALL
            SELECT
                {{bin(duration_s)}} AS bin,
                count()
            FROM requests
            WHERE tenant = {tenant:String}
              AND {{other_hours}}
              AND billed
              AND outcome = 'ok' AND scope != 'farthing.replay'
            GROUP BY bin
        )
    )                                      AS duration_s  -- [p50, p95, p99]
FROM (
    WITH 0 AS split
    SELECT
        if(is_refused, 0, calls) AS requests,
        unpriced,
        unknown_usage,
        estimated_usage,
        half_usage,
        replayed,
        unbilled_proxy,
        unbilled_nested,
        unbilled_other,
        if(is_refused, calls, 0) AS refused,
        timed
    FROM hourly
    WHERE tenant = {tenant:String}
      AND {{rolled_cells}}
    UNION ALL
    SELECT
        countIf(billed AND outcome != 'refused'),
        countIf(billed AND price_state = 'unpriced'),
        countIf(billed AND price_state = 'no_usage'),
        countIf(billed AND usage_source IN ('estimate', 'tokenizer')),
        countIf(billed AND price_state = 'priced' AND (isNull(input_tokens) OR isNull(output_tokens))),
        countIf(billed AND scope = 'farthing.replay'),
        countIf(NOT billed AND unbilled_reason = 'proxy'),
        countIf(NOT billed AND unbilled_reason = 'nested'),
        countIf(NOT billed AND unbilled_reason NOT IN ('proxy', 'nested')),
        countIf(billed AND outcome = 'refused'),
        countIf(billed AND outcome = 'ok' AND scope != 'farthing.replay')
    FROM requests
    WHERE tenant = {tenant:String}
      AND {{other_hours}}
)
