-- The teams and models that a reader chose; none chosen = all.
(empty({teams:Array(String)}) OR has({teams:Array(String)}, team))
AND (empty({models:Array(String)}) OR has({models:Array(String)}, model))
