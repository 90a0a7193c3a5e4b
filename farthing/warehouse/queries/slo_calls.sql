-- How many calls of a scope does an objective judge in each of several windows that end at `until`, and how many miss it?
WITH arrayMap(age_s -> started_at >= {until:DateTime64(3)} - toIntervalSecond(age_s), {ages_s:Array(UInt32)}) AS windows
SELECT
    sumForEach(arrayMap(is_in -> toUInt64(is_in), windows))                AS calls,
    sumForEach(arrayMap(is_in -> toUInt64(is_in AND {{missed}}), windows)) AS missed
FROM requests
WHERE tenant = {tenant:String}
  AND {{judged}}
  AND {{scoped}}
