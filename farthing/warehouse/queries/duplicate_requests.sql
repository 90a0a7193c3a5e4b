-- Which identical requests were paid for more than once over [since, until), by team and model, costliest waste first?
SELECT
    team,
    model,
    count()                                         AS groups,          -- distinct requests that were repeated
    sum(calls)                                      AS requests,
    sum(calls - 1)                                  AS repeats,
    sum(group_usd)                                  AS cost_usd,
    sum(group_usd - first_usd)                      AS avoidable_usd,   -- all that was paid after the first answer
    sumIf(group_usd - first_usd, is_deterministic)  AS safe_usd,        -- the part of it that asked for temperature 0
    argMax(request_hash, group_usd - first_usd)     AS worst_hash,
    max(calls)                                      AS worst_calls
FROM (
    SELECT
        team,
        model,
        request_hash,
        count()                          AS calls,
        sum(cost_usd)                    AS group_usd,
        argMin(cost_usd, started_at)     AS first_usd,
        min(ifNull(temperature, 1) = 0)  AS is_deterministic
    FROM requests
    WHERE tenant = {tenant:String}
      AND started_at >= {since:DateTime64(3)}
      AND started_at < {until:DateTime64(3)}
      AND billed
      AND outcome = 'ok'
      AND cache_hit = ''
      AND request_hash != ''
      AND isNotNull(cost_usd)
    GROUP BY
        team,
        model,
        request_hash
    HAVING calls > 1
)
GROUP BY
    team,
    model
ORDER BY
    avoidable_usd DESC,
    team,
    model
LIMIT {limit:UInt32}
