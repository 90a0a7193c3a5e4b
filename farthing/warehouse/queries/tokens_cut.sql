-- What did token policies cut over [since, until), in estimated tokens, by team, model and whether it was in shadow only?
SELECT
    team,
    model,
    is_shadow,
    count()                                                          AS requests,
    countIf(cut['refused'] > 0)                                      AS refused,     -- too long also after what may be cut
    sum(cut['before'])                                               AS tokens_before,
    sum(cut['after'])                                                AS tokens_after,
    sum(cut['cut.history'])                                          AS history,
    sum(cut['cut.retrieval'])                                        AS retrieval,
    sum(cut['cut.phrases'])                                          AS phrases,
    sum(cut['cut.whitespace'])                                       AS whitespace,
    sum(cut['turns_cut'])                                            AS turns,
    countIf(cut['max_output'] > 0)                                   AS output_limited,
    countIf(cut['summary'] > 0)                                      AS summaries,
    countIf(cut['no_summary'] > 0)                                   AS summaries_failed
FROM (
    SELECT
        team,
        model,
        arrayJoin([false, true]) AS is_shadow,
        if(is_shadow,
            mapApply((k, v) -> (substring(k, 8), v), mapFilter((k, v) -> startsWith(k, 'shadow.'), tokens_cut)),
            mapFilter((k, v) -> NOT startsWith(k, 'shadow.'), tokens_cut)) AS cut
    FROM requests
    WHERE tenant = {tenant:String}
      AND started_at >= {since:DateTime64(3)}
      AND started_at < {until:DateTime64(3)}
      AND billed
      AND notEmpty(tokens_cut)
)
WHERE notEmpty(cut)
GROUP BY
    team,
    model,
    is_shadow
ORDER BY
    tokens_before - tokens_after DESC,
    team,
    model,
    is_shadow
LIMIT {limit:UInt32}
