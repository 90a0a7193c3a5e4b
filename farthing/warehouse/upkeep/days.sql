-- Which days before `until` have other hours than their cells were made of?
SELECT
    day,
    hours.made_of AS made_of
FROM (
    SELECT
        toStartOfDay(hour)                AS day,
        groupBitXor(cityHash64(hour, at)) AS made_of
    FROM (
        SELECT
            hour,
            max(at) AS at
        FROM upkeep
        WHERE note = 'rolled'
          AND hour < fromUnixTimestamp64Milli({until_ms:Int64})
        GROUP BY hour
    )
    GROUP BY day
) AS hours
LEFT JOIN (
    SELECT
        hour                AS day,
        argMax(made_of, at) AS made_of
    FROM upkeep
    WHERE note = 'rolled_day'
    GROUP BY hour
) AS days USING (day)
WHERE hours.made_of != days.made_of
ORDER BY day
