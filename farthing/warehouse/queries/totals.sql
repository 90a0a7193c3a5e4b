-- What was spent, saved and served over [since, until)?
SELECT
    sum(requests)                          AS requests,
    sum(cost_usd)                          AS cost_usd,       -- Decimal(38, 9)
    sum(saved_usd)                         AS saved_usd,
    sum(input_tokens)                      AS input_tokens,
    sum(output_tokens)                     AS output_tokens,
    sum(cache_read_tokens)                 AS cache_read_tokens,
    sum(cache_hits)                        AS cache_hits,
    sum(unpriced)                          AS unpriced,
    sum(unknown_usage)                     AS unknown_usage,
    sum(errors)                            AS errors,
    sum(refused)                           AS refused,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(duration_s) AS duration_s, -- [p50, p95, p99]
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(ttft_s)     AS ttft_s,
    max(received_at)                       AS data_until
FROM (
    SELECT
        if(is_refused, 0, calls) AS requests,
        cost_usd,
        saved_usd,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_hits,
        unpriced,
        unknown_usage,
        errors,
        if(is_refused, calls, 0) AS refused,
        duration_s,
        ttft_s,
        received_at
    FROM hourly
    WHERE tenant = {tenant:String}
      AND grain = if(empty({teams:Array(String)}), 0, 1) + if(empty({models:Array(String)}), 0, 2)
      AND hour >= {rolled_since:DateTime64(3)}
      AND hour < {rolled_until:DateTime64(3)}
      AND (hour, rolled_at) IN (
          SELECT
              hour,
              max(at)
          FROM upkeep
          WHERE note = 'rolled'
            AND hour >= {rolled_since:DateTime64(3)}
            AND hour < {rolled_until:DateTime64(3)}
          GROUP BY hour
      )
      AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
      AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
    UNION ALL
    SELECT
        countIf(billed AND outcome != 'refused'),
        sumIf(cost_usd, billed),
        sumIf(saved_usd, billed),
        sumIf(input_tokens, billed AND cache_hit = ''),
        sumIf(output_tokens, billed AND cache_hit = ''),
        sumIf(cache_read_tokens, billed AND cache_hit = ''),
        countIf(billed AND cache_hit != ''),
        countIf(billed AND price_state = 'unpriced'),
        countIf(billed AND price_state = 'no_usage'),
        countIf(billed AND outcome = 'error'),
        countIf(billed AND outcome = 'refused'),
        quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(duration_s, billed AND outcome = 'ok' AND scope != 'farthing.replay'),
        quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(toFloat64(ifNull(ttft_s, 0)), billed AND isNotNull(ttft_s)),
        max(received_at)
    FROM requests
    WHERE tenant = {tenant:String}
      AND (
          (started_at >= {since:DateTime64(3)} AND started_at < {rolled_since:DateTime64(3)})
          OR (started_at >= {rolled_until:DateTime64(3)} AND started_at < {until:DateTime64(3)})
      )
      AND (empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
      AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
)
