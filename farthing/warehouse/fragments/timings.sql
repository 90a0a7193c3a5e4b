-- What is timed of a call, as pairs of a measure of hourly_latency and seconds; NaN where it is not known or not counted.
ARRAY JOIN [
    (1, if(outcome = 'ok' AND scope != 'farthing.replay', duration_s, nan)),
    (2, toFloat64(ifNull(ttft_s, nan)))
] AS timing
