-- Which calls of [since, until) would be decided about: at most so many, drawn evenly, repeats of one request together?
SELECT
    started_at,
    team,
    user,
    feature,
    session,
    api_key,
    tags,
    provider,
    model,
    deployment,
    tokens_cut,
    if(empty(prefix_hashes), '', prefix_hashes[1]) AS prefix,
    multiIf(routed_from != '', routed_from, request_model != '', request_model, model) AS asked_model,
    ifNull(input_uncached, 0)      AS input_uncached,
    ifNull(cache_read_tokens, 0)   AS cache_read_tokens,
    ifNull(cache_write_tokens, 0)  AS cache_write_tokens,
    ifNull(output_tokens, 0)       AS output_tokens,
    isNotNull(output_tokens)       AS has_usage,
    cost_usd,
    duration_s,
    temperature,
    operation,
    outcome,
    cache_hit,
    request_hash,
    request_id,
    span_id,
    count() OVER ()                AS total                   -- calls of the window, before the draw
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND outcome != 'refused'
ORDER BY cityHash64(if(request_hash = '', span_id, request_hash))
LIMIT {limit:UInt32}
