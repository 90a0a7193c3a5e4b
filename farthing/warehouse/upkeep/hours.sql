-- Which hours over [since, until) have any calls?
SELECT DISTINCT toStartOfHour(started_at, 'UTC') AS hour
FROM requests
WHERE started_at >= fromUnixTimestamp64Milli({since_ms:Int64})
  AND started_at < fromUnixTimestamp64Milli({until_ms:Int64})
ORDER BY hour
