-- The start of the bucket of `step` seconds of the local clock that a moment lies in, as `bucket`, epoch seconds.
timeZoneOffset(toTimeZone({{1}}, {tz:String}))                               AS offset_s,
intDiv(toUnixTimestamp({{1}}) + offset_s, {step:UInt32}) * {step:UInt32}     AS local_start,
-- with the offset that holds at the bucket's own start: some days have 23 or 25 hours
local_start - timeZoneOffset(toTimeZone(toDateTime(local_start - offset_s), {tz:String})) AS bucket
