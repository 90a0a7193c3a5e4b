-- What did each token policy cut over [since, until), by kind, and what would that input have cost at the call's price?
-- Of calls that went upstream: of others nothing would have been paid. A summary is input put in, so it counts below 0.
SELECT
    policy,
    is_shadow,
    kind,
    count()                                                AS requests,
    sum(tokens)                                            AS tokens_cut,  -- estimated
    toDecimal128(sum(nusd), 9) / 1000000000                AS cut_usd,     -- of the priced ones
    sumIf(tokens, nusd IS NULL)                            AS unpriced_tokens
FROM (
    SELECT
        is_shadow,
        substring(arrayFirst(name -> startsWith(name, 'policy.'), mapKeys(cut)), 8)  AS policy,  -- empty: an older proxy's
        arrayJoin(arrayConcat(
            arrayMap(
                name -> (substring(name, 5), toInt64(cut[name])),
                arrayFilter(name -> startsWith(name, 'cut.'), mapKeys(cut))
            ),
            if(cut['summary'] > 0, [('summary', -toInt64(cut['summary']))], [])
        ))                                                                           AS part,
        part.1                                                                       AS kind,
        part.2                                                                       AS tokens,
        if(price = '', NULL, intDiv(tokens * rate, 1000000))                         AS nusd
    FROM (
        SELECT
            arrayJoin([false, true]) AS is_shadow,
            if(is_shadow,
                mapApply((k, v) -> (substring(k, 8), v), mapFilter((k, v) -> startsWith(k, 'shadow.'), tokens_cut)),
                mapFilter((k, v) -> NOT startsWith(k, 'shadow.'), tokens_cut)) AS cut,
            dictGetOrDefault('prices', 'price', (provider, model, service_tier), toDate32(started_at, 'UTC'), '') AS price,
            reinterpretAsInt64(substring(price, 9, 8)) AS rate  -- the second number: nUSD per million uncached input
        FROM requests
        WHERE tenant = {tenant:String}
          AND started_at >= {since:DateTime64(3)}
          AND started_at < {until:DateTime64(3)}
          AND billed
          AND cache_hit = ''
          AND outcome != 'refused'
          AND notEmpty(tokens_cut)
    )
    WHERE cut['refused'] = 0
)
GROUP BY
    policy,
    is_shadow,
    kind
ORDER BY
    policy,
    is_shadow,
    tokens_cut DESC,
    kind
LIMIT {limit:UInt32}
