-- How are the latencies of these whole days distributed, at every grain?
INSERT INTO hourly_latency
SELECT
    tenant,
    grain + 4,
    measure,
    team,
    provider,
    model,
    toStartOfDay(cells.hour) AS day,
    bin,
    fromUnixTimestamp64Micro({rolled_us:Int64} + toInt64(indexOf({days:Array(DateTime('UTC'))}, day)), 'UTC') AS version,
    sum(calls)
FROM hourly_latency AS cells
WHERE {{hours_of_days}}
GROUP BY
    tenant,
    grain,
    measure,
    team,
    provider,
    model,
    day,
    bin
