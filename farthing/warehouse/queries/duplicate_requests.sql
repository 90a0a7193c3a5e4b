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
    {{paid_answers}}
      -- First which hashes come twice, by one number each: all of them at full length would not fit into the memory
      AND cityHash64(team, model, request_hash) IN (
          SELECT cityHash64(team, model, request_hash) AS request
          {{paid_answers}}
          GROUP BY request
          HAVING count() > 1
      )
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
