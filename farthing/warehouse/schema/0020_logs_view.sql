-- Explodes each OTLP logs body into records.
CREATE MATERIALIZED VIEW IF NOT EXISTS otel_logs_mv TO otel_logs AS
{{explode_logs}}
