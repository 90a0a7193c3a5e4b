-- When were the first and the last rows received?
SELECT
    toUnixTimestamp64Milli(min(received_at)) AS first_ms,
    toUnixTimestamp64Milli(max(received_at)) AS last_ms
FROM requests
