-- What was spent over [since, until) on each team or model; the argument is the column that says which.
SELECT
    {{1}},
    requests,
    cost_usd,
    saved_usd,
    input_tokens,
    output_tokens,
    cache_hits,
    unpriced,
    errors,
    engine_s,
    if(empty(latency), [nan, nan, nan], latency) AS duration_s
FROM (
    SELECT
        {{1}},
        sum(requests)                          AS requests,
        sum(cost_usd)                          AS cost_usd,
        sum(saved_usd)                         AS saved_usd,
        sum(input_tokens)                      AS input_tokens,
        sum(output_tokens)                     AS output_tokens,
        sum(cache_hits)                        AS cache_hits,
        sum(unpriced)                          AS unpriced,
        sum(errors)                            AS errors,
        sum(engine_s)                          AS engine_s
    FROM (
        WITH if(empty({teams:Array(String)}) AND '{{1}}' != 'team', 0, 1) + if(empty({models:Array(String)}) AND '{{1}}' != 'model', 0, 2) AS split
        SELECT
            {{1}},
            calls AS requests,
            cost_usd,
            saved_usd,
            input_tokens,
            output_tokens,
            cache_hits,
            unpriced,
            errors,
            engine_s
        FROM hourly
        WHERE tenant = {tenant:String}
          AND {{rolled_cells}}
          AND NOT is_refused
          AND calls > 0
          AND {{chosen}}
        UNION ALL
        SELECT
            {{1}},
            count(),
            sum(cost_usd),
            sum(saved_usd),
            sumIf(input_tokens, cache_hit = ''),
            sumIf(output_tokens, cache_hit = ''),
            countIf(cache_hit != ''),
            countIf(price_state = 'unpriced'),
            countIf(outcome = 'error'),
            sum(engine_s)
        FROM requests
        WHERE tenant = {tenant:String}
          AND {{other_hours}}
          AND billed
          AND outcome != 'refused'
          AND {{chosen}}
        GROUP BY {{1}}
    )
    GROUP BY {{1}}
) AS sums
LEFT JOIN (
    SELECT
        {{1}},
        {{percentiles}} AS latency
    FROM (
        WITH if(empty({teams:Array(String)}) AND '{{1}}' != 'team', 0, 1) + if(empty({models:Array(String)}) AND '{{1}}' != 'model', 0, 2) AS split
        SELECT
            {{1}},
            bin,
            sum(calls) AS calls
        FROM hourly_latency
        WHERE tenant = {tenant:String}
          AND measure = 'duration'
          AND {{rolled_cells}}
          AND {{chosen}}
        GROUP BY
            {{1}},
            bin
        UNION ALL
        SELECT
            {{1}},
            {{bin(duration_s)}} AS bin,
            count()
        FROM requests
        WHERE tenant = {tenant:String}
          AND {{other_hours}}
          AND billed
          AND outcome = 'ok' AND scope != 'farthing.replay'
          AND {{chosen}}
        GROUP BY
            {{1}},
            bin
    )
    GROUP BY {{1}}
) AS timings USING ({{1}})
ORDER BY
    cost_usd DESC,
    {{1}}
LIMIT {limit:UInt32}
