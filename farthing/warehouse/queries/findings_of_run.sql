-- How many findings has one run written?
SELECT count() AS findings
FROM findings
WHERE tenant = {tenant:String}
  AND run_id = {run_id:String}
