-- What did the calls of a scope cost in each hour of [since, until)?
SELECT
    toUnixTimestamp(toStartOfHour(started_at)) AS hour,
    sum(requests.cost_usd)                     AS spent_usd
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND isNotNull(cost_usd)
  AND {{scoped}}
GROUP BY hour
