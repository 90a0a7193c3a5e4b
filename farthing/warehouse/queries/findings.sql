-- What did the newest run of each kind find, costliest first?
SELECT
    found_at,
    kind,
    subject,
    title,
    detail,
    since,
    until,
    requests,
    cost_usd,
    avoidable_usd,
    evidence
FROM findings
WHERE tenant = {tenant:String}
  AND (kind, run_id) IN (
      SELECT
          kind,
          argMax(run_id, found_at)
      FROM findings
      WHERE tenant = {tenant:String}
      GROUP BY kind
  )
ORDER BY
    avoidable_usd DESC,
    cost_usd DESC
LIMIT {limit:UInt32}
