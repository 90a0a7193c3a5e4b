-- When were these hours noted as changed, µs since the epoch?
SELECT
    hour,
    toUnixTimestamp64Micro(max(at)) AS changed_us
FROM upkeep
WHERE note = 'stale'
  AND hour IN {hours:Array(DateTime('UTC'))}
GROUP BY hour
