-- How do spend, calls and latency move over [since, until), per bucket of `step` seconds?
SELECT
    toUnixTimestamp(toStartOfInterval(started_at, toIntervalSecond({step:UInt32}), {tz:String})) AS bucket, -- epoch seconds
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
