-- Versions of hours and days that no reader can be reading any more.
rolled_at < fromUnixTimestamp64Micro({before_us:Int64})
AND rolled_at NOT IN (
    SELECT max(at)
    FROM upkeep
    WHERE note IN ('rolled', 'rolled_day')
    GROUP BY
        note,
        hour
)
