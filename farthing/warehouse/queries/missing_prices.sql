-- Which models and service tiers have no price over [since, until), most calls first?
SELECT
    provider,
    model,
    service_tier,
    sum(calls.calls)         AS requests,
    sum(calls.input_tokens)  AS input_tokens,
    sum(calls.output_tokens) AS output_tokens,
    min(first_at)            AS first_seen,
    max(last_at)             AS last_seen
FROM (
{{unpriced_calls}}
) AS calls
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
