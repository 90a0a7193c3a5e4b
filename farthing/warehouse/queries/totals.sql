-- What was spent, saved and served over [since, until)?
WITH (
    SELECT (groupArray(measure), groupArray(latency))
    FROM (
        SELECT
            measure,
            {{percentiles}} AS latency
        FROM (
            WITH {{split}} AS split
            SELECT
                toUInt8(hourly_latency.measure) AS measure,
                bin,
                sum(calls) AS calls
            FROM hourly_latency
            WHERE tenant = {tenant:String}
              AND {{rolled_cells}}
              AND {{chosen}}
            GROUP BY
                measure,
                bin
            UNION ALL
            WITH timing.2 AS seconds
            SELECT
                timing.1,
                {{bin(seconds)}} AS bin,
                count()
            FROM requests
            {{timings}}
            WHERE tenant = {tenant:String}
              AND {{other_hours}}
              AND billed
              AND NOT isNaN(seconds)
              AND {{chosen}}
            GROUP BY
                timing.1,
                bin
        )
        GROUP BY measure
    )
) AS latencies
SELECT
    sum(requests)                          AS requests,
    sum(cost_usd)                          AS cost_usd,       -- Decimal(38, 9)
    sum(saved_usd)                         AS saved_usd,
    sum(input_tokens)                      AS input_tokens,
    sum(output_tokens)                     AS output_tokens,
    sum(cache_read_tokens)                 AS cache_read_tokens,
    sum(cache_hits)                        AS cache_hits,
    sum(unpriced)                          AS unpriced,
    sum(unknown_usage)                     AS unknown_usage,
    sum(errors)                            AS errors,
    sum(refused)                           AS refused,
    max(received_at)                       AS data_until,
    if(has(latencies.1, 1), latencies.2[indexOf(latencies.1, 1)], [nan, nan, nan]) AS duration_s, -- [p50, p95, p99]
    if(has(latencies.1, 2), latencies.2[indexOf(latencies.1, 2)], [nan, nan, nan]) AS ttft_s
FROM (
    WITH {{split}} AS split
    SELECT
        if(is_refused, 0, calls) AS requests,
        cost_usd,
        saved_usd,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_hits,
        unpriced,
        unknown_usage,
        errors,
        if(is_refused, calls, 0) AS refused,
        received_at
    FROM hourly
    WHERE tenant = {tenant:String}
      AND {{rolled_cells}}
      AND {{chosen}}
    UNION ALL
    SELECT
        countIf(billed AND outcome != 'refused'),
        sumIf(cost_usd, billed),
        sumIf(saved_usd, billed),
        sumIf(input_tokens, billed AND cache_hit = ''),
        sumIf(output_tokens, billed AND cache_hit = ''),
        sumIf(cache_read_tokens, billed AND cache_hit = ''),
        countIf(billed AND cache_hit != ''),
        countIf(billed AND price_state = 'unpriced'),
        countIf(billed AND price_state = 'no_usage'),
        countIf(billed AND outcome = 'error'),
        countIf(billed AND outcome = 'refused'),
        max(received_at)
    FROM requests
    WHERE tenant = {tenant:String}
      AND {{other_hours}}
      AND {{chosen}}
)
