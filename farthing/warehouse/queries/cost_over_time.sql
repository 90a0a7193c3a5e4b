-- What did each model cost per bucket of `step` seconds over [since, until)?
SELECT
    toUnixTimestamp(toStartOfInterval(started_at, toIntervalSecond({step:UInt32}), {tz:String})) AS bucket, -- epoch seconds
    model,
    sum(cost_usd) AS cost_usd,
    count()       AS requests
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
