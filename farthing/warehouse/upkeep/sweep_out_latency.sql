-- The versions of hours that no reader can be reading any more are removed.
DELETE FROM hourly_latency
WHERE rolled_at < fromUnixTimestamp64Micro({before_us:Int64})
  AND rolled_at NOT IN (
      SELECT max(at)
      FROM upkeep
      WHERE note = 'rolled'
      GROUP BY hour
  )
