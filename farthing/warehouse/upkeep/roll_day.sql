-- Which cells do these whole days have, at every grain?
INSERT INTO hourly
SELECT
    tenant,
    grain + 4,
    toStartOfDay(cells.hour) AS day,
    team,
    provider,
    model,
    is_refused,
    fromUnixTimestamp64Micro({rolled_us:Int64} + toInt64(indexOf({days:Array(DateTime('UTC'))}, day)), 'UTC') AS version,
    {{summed_cells}}
FROM hourly AS cells
WHERE {{hours_of_days}}
GROUP BY
    tenant,
    grain,
    day,
    team,
    provider,
    model,
    is_refused
