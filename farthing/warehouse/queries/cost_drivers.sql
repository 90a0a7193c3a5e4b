-- Which (model, team) pairs is the money spent on over [since, until), dearest first, and with what tokens?
SELECT
    model,
    team,
    sum(requests)      AS requests,
    sum(cost_usd)      AS cost_usd,
    sum(input_tokens)  AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(unpriced)      AS unpriced
FROM (
    WITH 3 AS split
    SELECT
        model,
        team,
        calls AS requests,
        cost_usd,
        input_tokens,
        output_tokens,
        unpriced
    FROM hourly
    WHERE tenant = {tenant:String}
      AND {{rolled_cells}}
      AND NOT is_refused
      AND calls > 0
    UNION ALL
    SELECT
        model,
        team,
        count(),
        sum(cost_usd),
        sumIf(input_tokens, cache_hit = ''),
        sumIf(output_tokens, cache_hit = ''),
        countIf(price_state = 'unpriced')
    FROM requests
    WHERE tenant = {tenant:String}
      AND {{other_hours}}
      AND billed
      AND outcome != 'refused'
    GROUP BY
        model,
        team
)
GROUP BY
    model,
    team
ORDER BY
    cost_usd DESC,
    model,
    team
LIMIT {limit:UInt32}
