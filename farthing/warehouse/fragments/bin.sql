-- The bin of a latency of so many seconds; see hourly_latency.
toInt16(if({{1}} <= 3e-10, -1100, least(ceil(log({{1}}) / 0.02000066670666954), 2000)))
