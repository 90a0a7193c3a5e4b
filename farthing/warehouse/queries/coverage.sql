-- How much of [since, until) is known: usage, price and latency, and which rows carry no money?
SELECT
    countIf(billed AND outcome != 'refused')                                       AS requests,
    countIf(billed AND price_state = 'unpriced')                                   AS unpriced,
    countIf(billed AND price_state = 'no_usage')                                   AS unknown_usage,
    countIf(billed AND usage_source IN ('estimate', 'tokenizer'))                  AS estimated_usage,
    countIf(billed AND price_state = 'priced' AND (isNull(input_tokens) OR isNull(output_tokens))) AS half_usage, -- priced on one side only
    countIf(billed AND scope = 'farthing.replay')                                  AS replayed,   -- from a trace file; without a duration
    countIf(NOT billed AND unbilled_reason = 'proxy')                              AS unbilled_proxy,
    countIf(NOT billed AND unbilled_reason = 'nested')                             AS unbilled_nested,
    countIf(NOT billed AND unbilled_reason NOT IN ('proxy', 'nested'))             AS unbilled_other,
    countIf(billed AND outcome = 'refused')                                        AS refused,
    countIf(billed AND outcome = 'ok' AND scope != 'farthing.replay')              AS timed,
    quantilesDDIf(0.01, 0.5, 0.95, 0.99)(duration_s, billed AND outcome = 'ok' AND scope != 'farthing.replay') AS duration_s -- [p50, p95, p99]
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
