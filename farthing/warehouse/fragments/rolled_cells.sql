-- Cells that are in force, of the grain `split`, in the rolled part of the period: of its whole days, and of the hours at both ends.
(
    (grain = split AND hour >= {rolled_since:DateTime64(3)} AND hour < {days_since:DateTime64(3)})
    OR (grain = split + 4 AND hour >= {days_since:DateTime64(3)} AND hour < {days_until:DateTime64(3)})
    OR (grain = split AND hour >= {days_until:DateTime64(3)} AND hour < {rolled_until:DateTime64(3)})
)
AND rolled_at IN (
    SELECT max(at)
    FROM upkeep
    WHERE (note = 'rolled' AND hour >= {rolled_since:DateTime64(3)} AND hour < {days_since:DateTime64(3)})
       OR (note = 'rolled_day' AND hour >= {days_since:DateTime64(3)} AND hour < {days_until:DateTime64(3)})
       OR (note = 'rolled' AND hour >= {days_until:DateTime64(3)} AND hour < {rolled_until:DateTime64(3)})
    GROUP BY
        note,
        hour
)
