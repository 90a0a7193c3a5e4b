-- The calls of one scope of a policy document: patterns as LIKE has them, none = all; a fact that is absent fits none.
(empty({teams:Array(String)}) OR (team != '' AND arrayExists(one -> team LIKE one, {teams:Array(String)})))
AND (empty({users:Array(String)}) OR (user != '' AND arrayExists(one -> user LIKE one, {users:Array(String)})))
AND (empty({features:Array(String)}) OR (feature != '' AND arrayExists(one -> feature LIKE one, {features:Array(String)})))
AND (empty({keys:Array(String)}) OR (api_key != '' AND arrayExists(one -> api_key LIKE one, {keys:Array(String)})))
AND (
    empty({models:Array(String)})
    OR arrayExists(
        one -> multiIf(routed_from != '', routed_from, request_model != '', request_model, model) LIKE one,
        {models:Array(String)}
    )
)
AND arrayAll(
    (name, likes) -> tags[name] != '' AND arrayExists(one -> tags[name] LIKE one, likes),
    {tag_names:Array(String)},
    {tag_likes:Array(Array(String))}
)
