-- What were the prompts of the calls of [since, until) judged to be, where a policy routed by that?
SELECT
    SpanId                                                             AS span_id,
    SpanAttributes['farthing.task']                                    AS task,
    toFloat64OrZero(SpanAttributes['farthing.task.confidence'])        AS confidence,
    toFloat64OrZero(SpanAttributes['farthing.task.complexity'])        AS complexity
FROM otel_traces
WHERE Tenant = {tenant:String}
  AND Timestamp >= {since:DateTime64(3)}
  AND Timestamp < {until:DateTime64(3)}
  AND mapContains(SpanAttributes, 'farthing.task')
LIMIT {limit:UInt32}
