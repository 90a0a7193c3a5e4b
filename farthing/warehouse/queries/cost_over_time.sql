-- What did each model cost per bucket of `step` seconds of the local clock over [since, until)?
SELECT
    bucket, -- epoch seconds
    model,
    sum(cost_usd) AS cost_usd,
    sum(requests) AS requests
FROM (
    WITH
        2 + if(empty({teams:Array(String)}), 0, 1) AS split,
        {{bucket(hour)}}
    SELECT
        bucket,
        model,
        cost_usd,
        calls AS requests
    FROM hourly
    WHERE tenant = {tenant:String}
      AND {{rolled_cells}}
      AND NOT is_refused
      AND calls > 0
      AND {{chosen}}
    UNION ALL
    WITH
        {{bucket(started_at)}}
    SELECT
        bucket,
        model,
        sum(cost_usd),
        count()
    FROM requests
    WHERE tenant = {tenant:String}
      AND {{other_hours}}
      AND billed
      AND outcome != 'refused'
      AND {{chosen}}
    GROUP BY
        bucket,
        model
)
GROUP BY
    bucket,
    model
ORDER BY
    bucket,
    model
