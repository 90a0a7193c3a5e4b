-- Calls of coding agents whose events name no span were taken for copies of one another; they are billed again, and
-- their hours are summed anew. Since now the view makes an id of its own for each.
INSERT INTO upkeep (note, hour, at)
SELECT DISTINCT
    'stale',
    toStartOfHour(started_at, 'UTC'),
    now64(6)
FROM requests
WHERE unbilled_reason = 'replayed'
  AND span_id = ''
;
ALTER TABLE requests UPDATE billed = true, unbilled_reason = ''
WHERE unbilled_reason = 'replayed'
  AND span_id = ''
SETTINGS mutations_sync = 2
