-- How do spend, calls and latency move over [since, until), per bucket of `step` seconds of the local clock?
SELECT
    bucket, -- epoch seconds
    sum(requests)                          AS requests,
    sum(cost_usd)                          AS cost_usd,
    sum(input_tokens)                      AS input_tokens,
    sum(output_tokens)                     AS output_tokens,
    sum(cache_hits)                        AS cache_hits,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(duration_s) AS duration_s
FROM (
    WITH
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
        cache_hits,
        duration_s
    FROM hourly
    WHERE tenant = {tenant:String}
      AND grain = if(empty({teams:Array(String)}), 0, 1) + if(empty({models:Array(String)}), 0, 2)
      AND hour >= {rolled_since:DateTime64(3)}
      AND hour < {rolled_until:DateTime64(3)}
      AND (hour, rolled_at) IN (
          SELECT
              hour,
              max(at)
          FROM upkeep
          WHERE note = 'rolled'
            AND hour >= {rolled_since:DateTime64(3)}
            AND hour < {rolled_until:DateTime64(3)}
          GROUP BY hour
      )
      AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
      AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
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
        countIf(billed AND cache_hit != ''),
        quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(duration_s, billed AND outcome = 'ok' AND scope != 'farthing.replay')
    FROM requests
    WHERE tenant = {tenant:String}
      AND (
          (started_at >= {since:DateTime64(3)} AND started_at < {rolled_since:DateTime64(3)})
          OR (started_at >= {rolled_until:DateTime64(3)} AND started_at < {until:DateTime64(3)})
      )
      AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
      AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
    GROUP BY bucket
)
GROUP BY bucket
ORDER BY bucket
