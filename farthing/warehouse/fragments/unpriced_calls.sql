-- Calls without a price, by model and service tier: sums of the rolled hours, and of the rows of the others.
SELECT
    provider,
    model,
    service_tier,
    calls,
    input_tokens,
    output_tokens,
    first_at,
    last_at
FROM hourly_unpriced
WHERE tenant = {tenant:String}
  AND {{rolled_hours}}
UNION ALL
SELECT
    provider,
    model,
    service_tier,
    count(),
    sum(input_tokens),
    sum(output_tokens),
    min(started_at),
    max(started_at)
FROM requests
WHERE tenant = {tenant:String}
  AND {{other_hours}}
  AND billed
  AND price_state = 'unpriced'
GROUP BY
    provider,
    model,
    service_tier
