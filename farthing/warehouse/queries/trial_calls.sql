-- Which calls since an instant took part in a trial, on which side, and how did they go: at most so many, drawn evenly?
SELECT
    call.started_at   AS started_at,
    call.user         AS user,
    call.team         AS team,
    call.feature      AS feature,
    call.api_key      AS api_key,
    call.tags         AS tags,
    multiIf(call.routed_from != '', call.routed_from, call.request_model != '', call.request_model, call.model) AS asked_model,
    call.session      AS session,
    call.outcome      AS outcome,
    call.cost_usd     AS cost_usd,
    call.duration_s   AS duration_s,
    call.ttft_s       AS ttft_s,
    call.span_id      AS span_id,
    span.arms         AS arms
FROM requests AS call
INNER JOIN (
    SELECT
        TraceId,
        SpanId,
        SpanAttributes['farthing.policy.arms'] AS arms
    FROM otel_traces
    WHERE Tenant = {tenant:String}
      AND Timestamp >= {since:DateTime64(3)}
      AND mapContains(SpanAttributes, 'farthing.policy.arms')
    ORDER BY cityHash64(SpanId)
    LIMIT {limit:UInt32}
) AS span
    ON span.TraceId = call.trace_id
   AND span.SpanId = call.span_id
WHERE call.tenant = {tenant:String}
  AND call.started_at >= {since:DateTime64(3)}
ORDER BY call.started_at
