-- Which (model, team) pairs is the money spent on over [since, until), dearest first, and with what tokens?
SELECT
    model,
    team,
    count()                              AS requests,
    sum(cost_usd)                        AS cost_usd,
    sumIf(input_tokens, cache_hit = '')  AS input_tokens,
    sumIf(output_tokens, cache_hit = '') AS output_tokens,
    countIf(price_state = 'unpriced')    AS unpriced
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND outcome != 'refused'
GROUP BY
    model,
    team
ORDER BY
    cost_usd DESC,
    model,
    team
LIMIT {limit:UInt32}
