-- The versions of hours and days that no reader can be reading any more are removed.
DELETE FROM hourly_latency
WHERE {{superseded}}
