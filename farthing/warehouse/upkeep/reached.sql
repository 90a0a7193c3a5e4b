-- How far did the upkeep get?
SELECT toUnixTimestamp64Milli(max(at)) AS at_ms
FROM upkeep
WHERE note = {note:String}
