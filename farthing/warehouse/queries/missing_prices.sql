-- Which models and service tiers have no price over [since, until), most calls first?
SELECT
    provider,
    model,
    service_tier,
    count()            AS requests,
    sum(input_tokens)  AS input_tokens,
    sum(output_tokens) AS output_tokens,
    min(started_at)    AS first_seen,
    max(started_at)    AS last_seen
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND price_state = 'unpriced'
GROUP BY
    provider,
    model,
    service_tier
ORDER BY
    requests DESC,
    provider,
    model,
    service_tier
LIMIT {limit:UInt32}
