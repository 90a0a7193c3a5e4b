-- Which models have no price over [since, until), most calls first? A service tier without one is named with its model.
SELECT
    provider,
    if(service_tier = '', requests.model, concat(requests.model, ' (', service_tier, ')')) AS model,
    count()            AS requests,
    sum(input_tokens)  AS input_tokens,
    sum(output_tokens) AS output_tokens,
    max(started_at)    AS last_seen
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND price_state = 'unpriced'
GROUP BY
    provider,
    requests.model,
    service_tier
ORDER BY
    requests DESC,
    model
LIMIT {limit:UInt32}
