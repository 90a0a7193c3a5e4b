-- Hourly cells of the hours that are in force, in the part of the period that whole rolled hours answer.
hour >= {rolled_since:DateTime64(3)}
AND hour < {rolled_until:DateTime64(3)}
AND rolled_at IN (
    SELECT max(at)
    FROM upkeep
    WHERE note = 'rolled'
      AND hour >= {rolled_since:DateTime64(3)}
      AND hour < {rolled_until:DateTime64(3)}
    GROUP BY hour
)
