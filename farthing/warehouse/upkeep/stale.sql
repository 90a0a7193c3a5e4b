-- Which hours were noted as changed since they were rolled?
SELECT hour
FROM upkeep
WHERE note IN ('stale', 'rolled')
GROUP BY hour
HAVING toUnixTimestamp64Micro(maxIf(at, note = 'stale')) > argMaxIf(made_of, at, note = 'rolled')
ORDER BY hour
