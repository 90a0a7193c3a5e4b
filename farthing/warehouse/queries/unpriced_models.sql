-- Which models have no price over [since, until), most calls first?
SELECT
    provider,
    model,
    sum(requests)      AS requests,
    sum(input_tokens)  AS input_tokens,
    sum(output_tokens) AS output_tokens,
    max(last_seen)     AS last_seen
FROM (
    SELECT
        provider,
        model,
        unpriced               AS requests,
        unpriced_input_tokens  AS input_tokens,
        unpriced_output_tokens AS output_tokens,
        unpriced_last_at       AS last_seen
    FROM hourly
    WHERE tenant = {tenant:String}
      AND grain = 2
      AND hour >= {rolled_since:DateTime64(3)}
      AND hour < {rolled_until:DateTime64(3)}
      AND rolled_at IN (
          SELECT max(at)
          FROM upkeep
          WHERE note = 'rolled'
            AND hour >= {rolled_since:DateTime64(3)}
            AND hour < {rolled_until:DateTime64(3)}
          GROUP BY hour
      )
      AND unpriced > 0
    UNION ALL
    SELECT
        provider,
        model,
        count(),
        sum(input_tokens),
        sum(output_tokens),
        max(started_at)
    FROM requests
    WHERE tenant = {tenant:String}
      AND (
          (started_at >= {since:DateTime64(3)} AND started_at < {rolled_since:DateTime64(3)})
          OR (started_at >= {rolled_until:DateTime64(3)} AND started_at < {until:DateTime64(3)})
      )
      AND billed
      AND price_state = 'unpriced'
    GROUP BY
        provider,
        model
)
GROUP BY
    provider,
    model
ORDER BY
    requests DESC,
    model
LIMIT {limit:UInt32}
