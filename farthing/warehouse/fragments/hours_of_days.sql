-- Cells of the hours that are in force, of some whole days.
grain < 4
AND hour >= fromUnixTimestamp64Milli({since_ms:Int64})
AND hour < fromUnixTimestamp64Milli({until_ms:Int64})
AND toStartOfDay(hour) IN {days:Array(DateTime('UTC'))}
AND rolled_at IN (
    SELECT max(at)
    FROM upkeep
    WHERE note = 'rolled'
      AND hour >= fromUnixTimestamp64Milli({since_ms:Int64})
      AND hour < fromUnixTimestamp64Milli({until_ms:Int64})
    GROUP BY hour
)
