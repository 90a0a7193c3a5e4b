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
    fromUnixTimestamp64Micro({rolled_us:Int64}, 'UTC') AS rolled_at,
    sum(calls)
FROM (
    SELECT
        tenant,
        arrayJoin(arrayFilter(one -> isNotNull(one.2), [
            ('duration', if(outcome = 'ok' AND scope != 'farthing.replay', duration_s, NULL)),
            ('ttft', toFloat64(ttft_s))
        ]))                                                     AS timing,
        timing.1                                                AS measure,
        assumeNotNull(timing.2)                                 AS seconds,
        team,
        provider,
        model,
        toStartOfHour(toDateTime(started_at, 'UTC'))            AS hour,
        toInt16(if(seconds <= 3e-10, -1100, least(ceil(log(seconds) / 0.02000066670666954), 2000))) AS bin,
        count()                                                 AS calls
    FROM requests
    WHERE started_at >= fromUnixTimestamp64Milli({since_ms:Int64})
      AND started_at < fromUnixTimestamp64Milli({until_ms:Int64})
      AND toStartOfHour(toDateTime(started_at, 'UTC')) IN {hours:Array(DateTime('UTC'))}
      AND billed
    GROUP BY ALL
)
GROUP BY GROUPING SETS (
    (tenant, measure, hour, bin),
    (tenant, measure, hour, bin, team),
    (tenant, measure, hour, bin, provider, model),
    (tenant, measure, hour, bin, team, provider, model)
)
