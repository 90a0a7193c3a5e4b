-- How are the latencies of these hours distributed, at every grain?
INSERT INTO hourly_latency
SELECT
    tenant,
    if(grouping(team) = 0, 1, 0) + if(grouping(model) = 0, 2, 0) AS grain,
    measure,
    team,
    provider,
    model,
    hour,
    bin,
    fromUnixTimestamp64Micro({rolled_us:Int64} + toInt64(indexOf({hours:Array(DateTime('UTC'))}, hour)), 'UTC') AS rolled_at,
    sum(calls)
FROM (
    WITH timing.2 AS seconds
    SELECT
        tenant,
        timing.1                         AS measure,
        team,
        provider,
        model,
        toStartOfHour(started_at, 'UTC') AS hour,
        {{bin(seconds)}}                 AS bin,
        count()                          AS calls
    FROM requests
    {{timings}}
    WHERE started_at >= fromUnixTimestamp64Milli({since_ms:Int64})
      AND started_at < fromUnixTimestamp64Milli({until_ms:Int64})
      -- not of toDateTime(started_at): it wraps after 2106, and the index then leaves out parts that hold such a row
      AND toStartOfHour(started_at, 'UTC') IN {hours:Array(DateTime('UTC'))}
      AND billed
      AND NOT isNaN(seconds)
    GROUP BY
        tenant,
        measure,
        team,
        provider,
        model,
        hour,
        bin
)
GROUP BY GROUPING SETS (
    (tenant, measure, hour, bin),
    (tenant, measure, hour, bin, team),
    (tenant, measure, hour, bin, provider, model),
    (tenant, measure, hour, bin, team, provider, model)
)
