-- Which teams and models can the filters offer, and how far do the rows reach?
SELECT
    groupUniqArray(200)(team)  AS teams,
    groupUniqArray(200)(model) AS models,
    count()                    AS requests,
    min(started_at)            AS first_at,
    max(started_at)            AS last_at
FROM requests
WHERE tenant = {tenant:String}
