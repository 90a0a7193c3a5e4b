-- What was each call settled at that these workers of the proxy reserved from their leases, received in [since, until)?
SELECT
    ReceivedAt                                               AS received_at,
    SpanAttributes['farthing.request.id']                    AS request_id,
    ResourceAttributes['service.instance.id']                AS worker,
    SpanAttributes['farthing.leases']                        AS leases,
    toUInt64OrZero(SpanAttributes['farthing.held_nusd'])     AS held_nusd,
    toUInt64OrZero(SpanAttributes['farthing.settled_nusd'])  AS settled_nusd,
    toUnixTimestamp64Nano(Timestamp)                         AS started_ns
FROM otel_traces
WHERE Tenant = {tenant:String}
  AND ReceivedAt >= {since:DateTime64(3)}
  AND ReceivedAt < {until:DateTime64(3)}
  AND mapContains(SpanAttributes, 'farthing.leases')     -- idx_attr_key finds the granules
  AND ScopeName = 'farthing.proxy'
  AND worker IN {workers:Array(String)}
  AND (ReceivedAt, request_id) > ({since:DateTime64(3)}, {after:String})
ORDER BY
    received_at,
    request_id
LIMIT {limit:UInt32}
