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
            timeZoneOffset(toTimeZone(hour, {tz:String}))                               AS offset_s,
            intDiv(toUnixTimestamp(hour) + offset_s, {step:UInt32}) * {step:UInt32}     AS local_start,
            -- with the offset that holds at the bucket's own start: some days have 23 or 25 hours
            local_start - timeZoneOffset(toTimeZone(toDateTime(local_start - offset_s), {tz:String})) AS bucket
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
            timeZoneOffset(toTimeZone(started_at, {tz:String}))                               AS offset_s,
            intDiv(toUnixTimestamp(started_at) + offset_s, {step:UInt32}) * {step:UInt32}     AS local_start,
            -- with the offset that holds at the bucket's own start: some days have 23 or 25 hours
            local_start - timeZoneOffset(toTimeZone(toDateTime(local_start - offset_s), {tz:String})) AS bucket
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
            timeZoneOffset(toTimeZone(hour, {tz:String}))                               AS offset_s,
            intDiv(toUnixTimestamp(hour) + offset_s, {step:UInt32}) * {step:UInt32}     AS local_start,
            local_start - timeZoneOffset(toTimeZone(toDateTime(local_start - offset_s), {tz:String})) AS bucket
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
            timeZoneOffset(toTimeZone(started_at, {tz:String}))                               AS offset_s,
            intDiv(toUnixTimestamp(started_at) + offset_s, {step:UInt32}) * {step:UInt32}     AS local_start,
            local_start - timeZoneOffset(toTimeZone(toDateTime(local_start - offset_s), {tz:String})) AS bucket
        SELECT
            bucket,
            toInt16(if(duration_s <= 3e-10, -1100, least(ceil(log(duration_s) / 0.02000066670666954), 2000))) AS bin,
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
