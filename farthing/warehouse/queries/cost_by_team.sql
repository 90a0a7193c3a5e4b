-- Which teams cost most over [since, until), dearest first?
SELECT
    team,
    count()                                     AS requests,
    sum(cost_usd)                               AS cost_usd,
    sum(saved_usd)                              AS saved_usd,
    sumIf(input_tokens, cache_hit = '')         AS input_tokens,
    sumIf(output_tokens, cache_hit = '')        AS output_tokens,
    countIf(cache_hit != '')                    AS cache_hits,
    countIf(price_state = 'unpriced')           AS unpriced,
    countIf(outcome = 'error')                  AS errors,
    sum(engine_s)                               AS engine_s,
    quantilesDDIf(0.01, 0.5, 0.95, 0.99)(duration_s, outcome = 'ok' AND scope != 'farthing.replay') AS duration_s
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND outcome != 'refused'
  AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
  AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
GROUP BY team
ORDER BY
    cost_usd DESC,
    team
LIMIT {limit:UInt32}
