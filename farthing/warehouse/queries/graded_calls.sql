-- Which calls of a caller ('' = the proxy's own tenant) since an instant were graded under a name, of those whose model
-- was drawn from two: what a router saw of each prompt, which model answered, how likely it was to be drawn, and the last
-- grade? At most so many, the newest.
WITH grade AS (
    SELECT
        id,
        argMax(said, said_at) AS score,
        max(said_at)          AS graded_at
    FROM (
        SELECT
            Timestamp                                                                                AS said_at,
            if(SpanAttributes['farthing.request.id'] != '', SpanAttributes['farthing.request.id'],
               SpanAttributes['gen_ai.response.id'])                                                 AS id,
            SpanAttributes['gen_ai.evaluation.name']                                                 AS name,
            toFloat64OrNull(SpanAttributes['gen_ai.evaluation.score.value'])                         AS said
        FROM otel_traces
        WHERE Tenant = {tenant:String}
          AND Timestamp >= {since:DateTime64(3)}
          AND SpanName = 'gen_ai.evaluation.result'
        UNION ALL
        SELECT
            Timestamp                                                                                AS said_at,
            if(LogAttributes['farthing.request.id'] != '', LogAttributes['farthing.request.id'],
               LogAttributes['gen_ai.response.id'])                                                  AS id,
            LogAttributes['gen_ai.evaluation.name']                                                  AS name,
            toFloat64OrNull(LogAttributes['gen_ai.evaluation.score.value'])                          AS said
        FROM otel_logs
        WHERE Tenant = {tenant:String}
          AND TimestampTime >= toDateTime({since:DateTime64(3)})
          AND EventName = 'gen_ai.evaluation.result'
    )
    WHERE name = {grade:String}
      AND id != ''
      AND said BETWEEN 0 AND 1
    GROUP BY id
),
call AS (
    SELECT
        trace_id,
        span_id,
        model,
        arrayJoin(arrayDistinct(arrayFilter(name -> name != '', [request_id, response_id]))) AS id
    FROM requests
    WHERE tenant = {tenant:String}
      AND started_at >= {since:DateTime64(3)}
      AND scope = 'farthing.proxy'
      AND model IN ({weak:String}, {strong:String})
      AND outcome = 'ok'
      AND (request_id IN (SELECT id FROM grade) OR response_id IN (SELECT id FROM grade))
)
SELECT
    max(grade.graded_at)                AS newest_at,
    any(call.model)                     AS model,
    argMax(grade.score, grade.graded_at) AS score,
    any(span.features)                  AS features,
    any(span.propensity)                AS propensity
FROM call
INNER JOIN grade USING (id)
INNER JOIN (
    SELECT
        TraceId,
        SpanId,
        SpanAttributes['farthing.route.features']                     AS features,
        toFloat64OrZero(SpanAttributes['farthing.route.propensity'])  AS propensity
    FROM otel_traces
    WHERE Tenant = {tenant:String}
      AND Timestamp >= {since:DateTime64(3)}
      AND TraceId IN (SELECT trace_id FROM call)
      AND mapContains(SpanAttributes, 'farthing.route.propensity')
      AND SpanAttributes['farthing.route.tenant'] = {caller:String}
) AS span
    ON span.TraceId = call.trace_id
   AND span.SpanId = call.span_id
GROUP BY
    call.trace_id,
    call.span_id
ORDER BY newest_at DESC
LIMIT {limit:UInt32}
