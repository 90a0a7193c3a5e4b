-- Which teams cost most over [since, until), dearest first?
SELECT
    team,
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
        team,
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
        SELECT
            team,
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
          AND grain = 1 + if(empty({models:Array(String)}), 0, 2)
          AND {{rolled_hours}}
          AND NOT is_refused
          AND calls > 0
          AND {{chosen}}
        UNION ALL
        SELECT
            team,
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
        GROUP BY team
    )
    GROUP BY team
) AS sums
LEFT JOIN (
    SELECT
        team,
        {{percentiles}} AS latency
    FROM (
        SELECT
            team,
            bin,
            sum(calls) AS calls
        FROM hourly_latency
        WHERE tenant = {tenant:String}
          AND grain = 1 + if(empty({models:Array(String)}), 0, 2)
          AND measure = 'duration'
          AND {{rolled_hours}}
          AND {{chosen}}
        GROUP BY
            team,
            bin
        UNION ALL
        SELECT
            team,
            toInt16(if(duration_s <= 3e-10, -1100, least(ceil(log(duration_s) / 0.02000066670666954), 2000))) AS bin,
            count()
        FROM requests
        WHERE tenant = {tenant:String}
          AND {{other_hours}}
          AND billed
          AND outcome = 'ok' AND scope != 'farthing.replay'
          AND {{chosen}}
        GROUP BY
            team,
            bin
    )
    GROUP BY team
) AS timings USING (team)
ORDER BY
    cost_usd DESC,
    team
LIMIT {limit:UInt32}
