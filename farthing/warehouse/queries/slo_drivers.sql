-- Which team and model have the most calls of a scope that miss an objective over [since, until)?
SELECT
    team,
    model,
    count() AS missed
FROM requests
WHERE tenant = {tenant:String}
  AND {{judged}}
  AND {{missed}}
  AND {{scoped}}
GROUP BY
    team,
    model
ORDER BY
    missed DESC,
    team,
    model
LIMIT 1
