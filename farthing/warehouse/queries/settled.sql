-- Does the ledger agree with the warehouse over [since, until): what was settled against what was priced, per team?
SELECT
    team,
    count()                                                     AS requests,
    sum(cost_usd)                                               AS priced_usd,
    sum(settled_usd)                                            AS ledger_usd,
    countIf(isNotNull(settled_usd) AND cost_usd != settled_usd) AS mismatches
FROM requests
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime64(3)}
  AND started_at < {until:DateTime64(3)}
  AND billed
  AND scope = 'farthing.proxy'
GROUP BY team
ORDER BY team
