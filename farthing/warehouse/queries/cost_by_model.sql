-- Which models cost most over [since, until), dearest first?
SELECT
    model,
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
        model,
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
            model,
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
          AND grain = 2 + if(empty({teams:Array(String)}), 0, 1)
          AND {{rolled_hours}}
          AND NOT is_refused
          AND calls > 0
          AND {{chosen}}
        UNION ALL
        SELECT
            model,
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
        GROUP BY model
    )
    GROUP BY model
) AS sums
LEFT JOIN (
    SELECT
        model,
        {{percentiles}} AS latency
    FROM (
        SELECT
            model,
            bin,
            sum(calls) AS calls
        FROM hourly_latency
        WHERE tenant = {tenant:String}
          AND grain = 2 + if(empty({teams:Array(String)}), 0, 1)
          AND measure = 'duration'
          AND {{rolled_hours}}
          AND {{chosen}}
        GROUP BY
            model,
            bin
        UNION ALL
        SELECT
            model,
            toInt16(if(duration_s <= 3e-10, -1100, least(ceil(log(duration_s) / 0.02000066670666954), 2000))) AS bin,
            count()
        FROM requests
        WHERE tenant = {tenant:String}
          AND {{other_hours}}
          AND billed
          AND outcome = 'ok' AND scope != 'farthing.replay'
          AND {{chosen}}
        GROUP BY
            model,
            bin
    )
    GROUP BY model
) AS timings USING (model)
ORDER BY
    cost_usd DESC,
    model
LIMIT {limit:UInt32}
