-- Which hours were noted as changed since they were rolled?
SELECT hour
FROM upkeep
WHERE note IN ('stale', 'rolled')
GROUP BY hour
HAVING maxIf(at, note = 'stale') > maxIf(at, note = 'rolled')
ORDER BY hour
