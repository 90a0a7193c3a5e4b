-- In which slices of [since, until), counted from 0, were any rows received?
SELECT DISTINCT intDiv(toUnixTimestamp64Milli(received_at) - {since_ms:Int64}, {slice_ms:Int64}) AS slice
FROM requests
WHERE received_at >= fromUnixTimestamp64Milli({since_ms:Int64})
  AND received_at < fromUnixTimestamp64Milli({until_ms:Int64})
ORDER BY slice
