-- Explodes each OTLP metrics body into data points.
CREATE MATERIALIZED VIEW IF NOT EXISTS otel_metrics_mv TO otel_metrics AS
{{explode_metrics}}
