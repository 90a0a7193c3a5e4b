-- Raw OTLP metrics bodies come in here, one row each, and are stored nowhere.
CREATE TABLE IF NOT EXISTS otlp_metrics_in ({{otlp_metrics_structure}}) ENGINE = Null
