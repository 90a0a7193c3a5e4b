-- The calls of the period that were paid for and answered by a model, as far as their request is known.
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND outcome = 'ok'
  AND cache_hit = ''
  AND request_hash != ''
  AND isNotNull(cost_usd)
