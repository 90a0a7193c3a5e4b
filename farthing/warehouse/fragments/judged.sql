-- The calls of [since, until) that an objective of a service level judges; a client that hangs up is no failure.
started_at >= {since:DateTime64(3)}
AND started_at < {until:DateTime64(3)}
AND billed
AND ({measure:String} = 'errors' AND outcome = 'error' OR outcome = 'ok')
AND ({measure:String} != 'ttft' OR isNotNull(ttft_s))
AND ({measure:String} != 'cost' OR isNotNull(cost_usd))
