-- What is known of one call, by the request id that the proxy answered with: its billed row and the spans around it?
SELECT
    started_at,
    scope,
    service,
    team,
    user,
    feature,
    session,
    api_key,
    provider,
    model,
    routed_from,
    input_tokens,
    output_tokens,
    usage_source,
    cost_usd,
    settled_usd,
    price_state,
    price_version,
    billed,
    unbilled_reason,
    outcome,
    error_type,
    stream,
    cache_hit,
    policies,
    policy_version,
    duration_s,
    ttft_s,
    engine_s,
    trace_id,
    span_id,
    parent_span_id,
    request_id
FROM requests
WHERE tenant = {tenant:String}
  AND trace_id IN (
      SELECT trace_id
      FROM requests
      WHERE tenant = {tenant:String}
        AND request_id = {request_id:String}
  )
ORDER BY started_at
LIMIT 1000
