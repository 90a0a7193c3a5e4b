-- When did the calls start that were received over [since, until), and how many are there?
SELECT
    toStartOfFifteenMinutes(started_at, 'UTC') AS slot,
    count()                                    AS rows
FROM requests
WHERE received_at >= fromUnixTimestamp64Milli({since_ms:Int64})
  AND received_at < fromUnixTimestamp64Milli({until_ms:Int64})
GROUP BY slot
ORDER BY slot
