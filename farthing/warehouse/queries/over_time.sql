-- How do spend, calls and latency move over [since, until), per bucket of `step` seconds of the local clock?
WITH
    timeZoneOffset(toTimeZone(started_at, {tz:String}))                              AS offset_s,
    intDiv(toUnixTimestamp(started_at) + offset_s, {step:UInt32}) * {step:UInt32}    AS local_start,
    -- with the offset that holds at the bucket's own start: some days have 23 or 25 hours
    timeZoneOffset(toTimeZone(toDateTime(local_start - offset_s), {tz:String}))      AS start_offset_s
SELECT
    local_start - start_offset_s                                          AS bucket, -- epoch seconds
    countIf(billed AND outcome != 'refused')                              AS requests,
    sumIf(cost_usd, billed)                                               AS cost_usd,
    sumIf(input_tokens, billed AND cache_hit = '')                        AS input_tokens,
    sumIf(output_tokens, billed AND cache_hit = '')                       AS output_tokens,
    countIf(billed AND cache_hit != '')                                   AS cache_hits,
    quantilesDDIf(0.01, 0.5, 0.95, 0.99)(duration_s, billed AND outcome = 'ok' AND scope != 'farthing.replay') AS duration_s
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
  AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
GROUP BY bucket
ORDER BY bucket
