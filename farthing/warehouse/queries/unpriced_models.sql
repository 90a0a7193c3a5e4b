-- Which models have no price over [since, until), most calls first? A service tier without one is named with its model.
SELECT
    provider,
    if(service_tier = '', calls.model, concat(calls.model, ' (', service_tier, ')')) AS model,
    sum(calls.calls)     AS requests,
    sum(input_tokens)    AS input_tokens,
    sum(output_tokens)   AS output_tokens,
    max(last_at)         AS last_seen
FROM (
{{unpriced_calls}}
) AS calls
GROUP BY
    provider,
    calls.model,
    service_tier
ORDER BY
    requests DESC,
    model
LIMIT {limit:UInt32}
