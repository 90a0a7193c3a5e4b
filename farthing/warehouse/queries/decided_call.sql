-- What was known of one call of the proxy when it was decided, and what the proxy wrote down about the decision?
SELECT
    call.started_at                                        AS started_at,
    call.team                                              AS team,
    call.user                                              AS user,
    call.feature                                           AS feature,
    call.session                                           AS session,
    call.tags                                              AS tags,
    if(call.routed_from = '', call.model, call.routed_from) AS asked_model,
    call.model                                             AS served_model,
    call.outcome                                           AS outcome,
    call.cache_hit                                         AS cache_hit,
    call.cost_usd                                          AS cost_usd,
    call.policies                                          AS policies,
    call.policy_version                                    AS policy_version,
    span.SpanAttributes['farthing.key']                    AS key,
    span.SpanAttributes['farthing.policy.arms']            AS arms,
    span.SpanAttributes['farthing.policies.shadowed']      AS shadowed,
    mapFilter(
        (name, value) -> startsWith(name, 'farthing.route.') OR startsWith(name, 'farthing.task')
            OR name IN ('farthing.deployment.name', 'farthing.priority', 'farthing.waited.seconds', 'farthing.attempt_of',
                        'farthing.discarded', 'farthing.answer.quality'),
        span.SpanAttributes
    )                                                      AS routing,
    span.SpanId != ''                                      AS has_span
FROM (
    SELECT *
    FROM requests
    WHERE tenant = {tenant:String}
      AND request_id = {request_id:String}
      AND scope = 'farthing.proxy'
    LIMIT 1
) AS call
LEFT JOIN (
    SELECT
        TraceId,
        SpanId,
        SpanAttributes
    FROM otel_traces
    WHERE Tenant = {tenant:String}
      AND TraceId IN (
          SELECT trace_id
          FROM requests
          WHERE tenant = {tenant:String}
            AND request_id = {request_id:String}
      )
) AS span
    ON span.TraceId = call.trace_id
   AND span.SpanId = call.span_id
LIMIT 1
