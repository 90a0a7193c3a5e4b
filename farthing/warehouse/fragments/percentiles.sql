-- p50, p95 and p99 of a histogram of bins, seconds; see hourly_latency.
if(sum(calls) = 0, [nan, nan, nan], arrayMap(
    one -> if(one = -1100, 0, exp(one * 0.02000066670666954) * 0.99),
    quantilesExactWeighted(0.5, 0.95, 0.99)(bin, calls)
))
