-- Normalises and prices the spans that are model calls; generated from the alias table of farthing/semconv.py.
CREATE MATERIALIZED VIEW IF NOT EXISTS requests_mv TO requests AS
{{normalise_requests}}
