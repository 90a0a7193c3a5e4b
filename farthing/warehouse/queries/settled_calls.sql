-- What was each of these calls of the proxy settled at, as far as its span has arrived, of [since, until)?
SELECT
    request_id,
    settled_usd
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(9)}
  AND started_at < {until:DateTime64(9)}
  AND scope = 'farthing.proxy'
  AND billed
  AND isNotNull(settled_usd)
  AND request_id IN {request_ids:Array(String)}
ORDER BY request_id
LIMIT 1 BY request_id
