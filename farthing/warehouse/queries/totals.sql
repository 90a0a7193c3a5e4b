-- What was spent, saved and served over [since, until)?
SELECT
    countIf(billed AND outcome != 'refused')                              AS requests,
    sumIf(cost_usd, billed)                                               AS cost_usd,       -- Decimal(38, 9)
    sumIf(saved_usd, billed)                                              AS saved_usd,
    sumIf(input_tokens, billed AND cache_hit = '')                        AS input_tokens,
    sumIf(output_tokens, billed AND cache_hit = '')                       AS output_tokens,
    sumIf(cache_read_tokens, billed AND cache_hit = '')                   AS cache_read_tokens,
    countIf(billed AND cache_hit != '')                                   AS cache_hits,
    countIf(billed AND price_state = 'unpriced')                          AS unpriced,
    countIf(billed AND price_state = 'no_usage')                          AS unknown_usage,
    countIf(billed AND outcome = 'error')                                 AS errors,
    countIf(billed AND outcome = 'refused')                               AS refused,
    quantilesDDIf(0.01, 0.5, 0.95, 0.99)(duration_s, billed AND outcome = 'ok' AND scope != 'farthing.replay') AS duration_s, -- [p50, p95, p99]
    quantilesDDIf(0.01, 0.5, 0.95, 0.99)(ttft_s, billed AND isNotNull(ttft_s))  AS ttft_s,
    max(received_at)                                                      AS data_until
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
  AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
