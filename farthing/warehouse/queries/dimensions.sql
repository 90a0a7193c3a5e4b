-- Which teams and models can the filters offer, and how far do the rows reach?
SELECT
    groupUniqArrayArray(200)(team_names)  AS teams,
    groupUniqArrayArray(200)(model_names) AS models,
    sum(rows)                             AS requests,
    minIf(first, rows > 0)                AS first_at,
    max(last)                             AS last_at
FROM (
    WITH 1 AS split
    SELECT
        [team]   AS team_names,
        []       AS model_names,
        spans    AS rows,
        first_at AS first,
        last_at  AS last
    FROM hourly
    WHERE tenant = {tenant:String}
      AND {{rolled_cells}}
    UNION ALL
    WITH 2 AS split
    SELECT
        [],
        [model],
        0,
        first_at,
        last_at
    FROM hourly
    WHERE tenant = {tenant:String}
      AND {{rolled_cells}}
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
