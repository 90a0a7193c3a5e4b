-- Whether a call that an objective judges misses it: it failed, or is above the most that a good one takes.
multiIf(
    {measure:String} = 'errors', outcome = 'error',
    {measure:String} = 'latency', duration_s > {most:Float64},
    {measure:String} = 'ttft', assumeNotNull(ttft_s) > toFloat32({most:Float64}),
    toFloat64(assumeNotNull(cost_usd)) > {most:Float64}
)
