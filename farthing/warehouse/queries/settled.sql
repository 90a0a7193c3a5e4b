-- Does the ledger agree with the warehouse over [since, until): what was settled against what was priced, per team?
SELECT
    team,
    sum(requests)   AS requests,
    sum(priced_usd) AS priced_usd,
    sum(ledger_usd) AS ledger_usd,
    sum(mismatches) AS mismatches
FROM (
    WITH 1 AS split
    SELECT
        team,
        proxied       AS requests,
        proxied_usd   AS priced_usd,
        settled_usd   AS ledger_usd,
        unlike_ledger AS mismatches
    FROM hourly
    WHERE tenant = {tenant:String}
      AND {{rolled_cells}}
      AND proxied > 0
    UNION ALL
    SELECT
        team,
        count(),
        sum(cost_usd),
        sum(settled_usd),
        countIf(isNotNull(settled_usd) AND cost_usd != settled_usd)
    FROM requests
    WHERE tenant = {tenant:String}
      AND {{other_hours}}
      AND billed
      AND scope = 'farthing.proxy'
    GROUP BY team
)
GROUP BY team
ORDER BY team
