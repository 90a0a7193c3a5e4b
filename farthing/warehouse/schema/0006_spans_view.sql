-- Explodes each OTLP body into spans.
CREATE MATERIALIZED VIEW IF NOT EXISTS otel_traces_mv TO otel_traces AS
{{explode_spans}}
