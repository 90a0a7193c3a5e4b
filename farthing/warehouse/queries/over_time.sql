-- How do spend, calls and latency move over [since, until), per bucket of `step` seconds of the local clock?
SELECT
    bucket, -- epoch seconds
    requests,
    cost_usd,
    input_tokens,
    output_tokens,
    cache_hits,
    if(empty(latency), [nan, nan, nan], latency) AS duration_s
FROM (
    SELECT
        bucket,
        sum(requests)                          AS requests,
        sum(cost_usd)                          AS cost_usd,
        sum(input_tokens)                      AS input_tokens,
        sum(output_tokens)                     AS output_tokens,
        sum(cache_hits)                        AS cache_hits
    FROM (
        WITH
            {{split}} AS split,
            {{bucket(hour)}}
        SELECT
            bucket,
            if(is_refused, 0, calls) AS requests,
            cost_usd,
            input_tokens,
            output_tokens,
            cache_hits
        FROM hourly
        WHERE tenant = {tenant:String}
          AND {{rolled_cells}}
          AND {{chosen}}
        UNION ALL
        WITH
            {{bucket(started_at)}}
        SELECT
            bucket,
            countIf(billed AND outcome != 'refused'),
            sumIf(cost_usd, billed),
            sumIf(input_tokens, billed AND cache_hit = ''),
            sumIf(output_tokens, billed AND cache_hit = ''),
            countIf(billed AND cache_hit != '')
        FROM requests
        WHERE tenant = {tenant:String}
          AND {{other_hours}}
          AND {{chosen}}
        GROUP BY bucket
    )
    GROUP BY bucket
) AS sums
LEFT JOIN (
    SELECT
        bucket,
        {{percentiles}} AS latency
    FROM (
        WITH
            {{split}} AS split,
            {{bucket(hour)}}
        SELECT
            bucket,
            bin,
            sum(calls) AS calls
        FROM hourly_latency
        WHERE tenant = {tenant:String}
          AND measure = 'duration'
          AND {{rolled_cells}}
          AND {{chosen}}
        GROUP BY
            bucket,
            bin
        UNION ALL
        WITH
            {{bucket(started_at)}}
        SELECT
            bucket,
            {{bin(duration_s)}} AS bin,
            count()
        FROM requests
        WHERE tenant = {tenant:String}
          AND {{other_hours}}
          AND billed
          AND outcome = 'ok' AND scope != 'farthing.replay'
          AND {{chosen}}
        GROUP BY
            bucket,
            bin
    )
    GROUP BY bucket
) AS timings USING (bucket)
ORDER BY bucket
