-- How many tokens do metrics tell of over [since, until), per provider, model and kind? A check on spans, never billed.
WITH points AS (
    SELECT
        time, provider, model, token_type, service, series,
        if(kind = 'sum', value, sum)                                      AS total,
        lagInFrame(toNullable(total)) OVER stream                         AS total_before,
        row_number() OVER stream = 1                                      AS is_first,
        multiIf(
            is_first AND temporality != 'delta' AND (toUnixTimestamp64Nano(start_time) = 0 OR start_time >= time), 0.,
            temporality = 'delta' OR is_first OR total < total_before, total,
            total - total_before
        )                                                                 AS tokens
    FROM (
        SELECT *
        FROM otel_metrics
        WHERE tenant = {tenant:String}
          AND name IN ('gen_ai.client.token.usage', 'claude_code.token.usage', 'gemini_cli.token.usage')
          AND kind IN ('sum', 'histogram', 'exponential_histogram')
          AND time < {until:DateTime64(3)}
        ORDER BY series, start_time, time
        LIMIT 1 BY series, start_time, time
    )
    WHERE isNotNull(total)
    WINDOW stream AS (PARTITION BY series, start_time ORDER BY time)
)
SELECT
    service,
    provider,
    model,
    token_type,
    toUInt64(round(sum(tokens)))                                          AS tokens
FROM points
WHERE time >= {since:DateTime64(3)}
GROUP BY service, provider, model, token_type
ORDER BY tokens DESC, model, token_type
