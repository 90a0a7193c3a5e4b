-- Which teams and models can the filters offer, and how far do the rows reach?
SELECT
    groupUniqArrayArray(200)(team_names)  AS teams,
    groupUniqArrayArray(200)(model_names) AS models,
    sum(rows)                             AS requests,
    minIf(first, rows > 0)                AS first_at,
    max(last)                             AS last_at
FROM (
    SELECT
        if(grain = 1, [team], [])  AS team_names,
        if(grain = 2, [model], []) AS model_names,
        if(grain = 1, spans, 0)    AS rows,
        first_at                   AS first,
        last_at                    AS last
    FROM hourly
    WHERE tenant = {tenant:String}
      AND grain IN (1, 2)
      AND hour < {rolled_until:DateTime64(3)}
      AND rolled_at IN (
          SELECT max(at)
          FROM upkeep
          WHERE note = 'rolled'
            AND hour >= {rolled_since:DateTime64(3)}
            AND hour < {rolled_until:DateTime64(3)}
          GROUP BY hour
      )
    UNION ALL
    SELECT
        groupUniqArray(200)(team),
        groupUniqArray(200)(model),
        count(),
        min(started_at),
        max(started_at)
    FROM requests
    WHERE tenant = {tenant:String}
      AND started_at >= {rolled_until:DateTime64(3)}
)
