-- What did each model cost per bucket of `step` seconds of the local clock over [since, until)?
WITH
    timeZoneOffset(toTimeZone(started_at, {tz:String}))                              AS offset_s,
    intDiv(toUnixTimestamp(started_at) + offset_s, {step:UInt32}) * {step:UInt32}    AS local_start,
    timeZoneOffset(toTimeZone(toDateTime(local_start - offset_s), {tz:String}))      AS start_offset_s
SELECT
    local_start - start_offset_s AS bucket, -- epoch seconds
    model,
    sum(cost_usd)                AS cost_usd,
    count()                      AS requests
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND outcome != 'refused'
  AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
  AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
GROUP BY
    bucket,
    model
ORDER BY
    bucket,
    model
