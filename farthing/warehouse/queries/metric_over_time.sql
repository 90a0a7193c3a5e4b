-- How does the metric `name` move over [since, until), per bucket of `step` seconds: its values, and what it grew by?
WITH points AS (
    SELECT
        time, kind, unit, series, start_time, temporality,
        kind = 'gauge' OR (kind = 'sum' AND NOT monotonic AND temporality != 'delta') AS is_level,
        if(kind IN ('sum', 'gauge'), value, sum)                          AS total,
        toFloat64(ifNull(count, 0))                                       AS observed,
        -- a stream is a series and the moment it began at: two processes that cannot be told apart are two streams
        lagInFrame(toNullable(total)) OVER stream                         AS total_before,
        lagInFrame(toNullable(observed)) OVER stream                      AS observed_before,
        row_number() OVER stream = 1                                      AS is_first,
        -- where a sender does not know when its stream began, the first point tells nothing of growth
        is_first AND temporality != 'delta' AND (toUnixTimestamp64Nano(start_time) = 0 OR start_time >= time) AS is_baseline,
        multiIf(
            is_level OR is_baseline, 0.,
            temporality = 'delta' OR is_first OR observed < observed_before OR total < total_before, total,
            total - total_before
        )                                                                 AS growth,
        multiIf(
            is_level OR is_baseline, 0.,
            temporality = 'delta' OR is_first OR observed < observed_before OR total < total_before, observed,
            observed - observed_before
        )                                                                 AS observations
    FROM (
        SELECT *
        FROM otel_metrics
        WHERE tenant = {tenant:String}
          AND name = {name:String}
          AND time < {until:DateTime64(3)}
          AND (time >= {since:DateTime64(3)} OR kind != 'gauge')          -- growth needs the point before the first
          AND (empty({services:Array(String)}) OR has({services:Array(String)}, service))
          AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
        ORDER BY series, start_time, time
        LIMIT 1 BY series, start_time, time                               -- a point that was sent again says nothing new
    )
    WHERE isNotNull(total)
    WINDOW stream AS (PARTITION BY series, start_time ORDER BY time)
)
SELECT
    intDiv(toUnixTimestamp(time), {step:UInt32}) * {step:UInt32}          AS bucket, -- epoch seconds
    any(kind)                                                             AS kind,
    any(unit)                                                             AS unit,
    uniqExact(series)                                                     AS series,
    count()                                                               AS points,
    avgOrNullIf(total, is_level)                                          AS average, -- of a gauge or an up-down counter
    minOrNullIf(total, is_level)                                          AS lowest,
    maxOrNullIf(total, is_level)                                          AS highest,
    sumOrNullIf(growth, NOT is_level)                                     AS growth, -- of a counter; of a histogram's sum
    sum(observations)                                                     AS observations
FROM points
WHERE time >= {since:DateTime64(3)}
GROUP BY bucket
ORDER BY bucket
