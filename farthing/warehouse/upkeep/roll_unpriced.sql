-- Which calls of these hours have no price, by model and service tier?
INSERT INTO hourly_unpriced
SELECT
    tenant,
    toStartOfHour(started_at, 'UTC') AS hour,
    provider,
    model,
    service_tier,
    fromUnixTimestamp64Micro({rolled_us:Int64} + toInt64(indexOf({hours:Array(DateTime('UTC'))}, hour)), 'UTC') AS version,
    count(),
    sum(input_tokens),
    sum(output_tokens),
    min(started_at),
    max(started_at)
FROM requests
WHERE started_at >= fromUnixTimestamp64Milli({since_ms:Int64})
  AND started_at < fromUnixTimestamp64Milli({until_ms:Int64})
  AND toStartOfHour(started_at, 'UTC') IN {hours:Array(DateTime('UTC'))}
  AND billed
  AND price_state = 'unpriced'
GROUP BY
    tenant,
    hour,
    provider,
    model,
    service_tier
