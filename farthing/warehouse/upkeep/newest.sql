-- Which version of an hour or a day is the newest of all, µs since the epoch?
SELECT toUnixTimestamp64Micro(max(at)) AS rolled_us
FROM upkeep
WHERE note IN ('rolled', 'rolled_day')
