-- The versions of hours that no reader can be reading any more are removed.
DELETE FROM hourly_latency
WHERE rolled_at < fromUnixTimestamp64Micro({before_us:Int64})
  AND (hour, rolled_at) NOT IN (
      SELECT
          hour,
          max(at)
      FROM upkeep
      WHERE note = 'rolled'
      GROUP BY hour
  )
