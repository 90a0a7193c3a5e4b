-- The rows in the places of a stage get the right verdict.
{{corrected}} (
    SELECT
        block,
        offset,
        span
    FROM {stage:Identifier}
    WHERE verdict = {verdict:UInt8}
)
