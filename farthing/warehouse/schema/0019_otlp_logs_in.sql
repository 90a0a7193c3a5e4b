-- Raw OTLP logs bodies come in here, one row each, and are stored nowhere.
CREATE TABLE IF NOT EXISTS otlp_logs_in ({{otlp_logs_structure}}) ENGINE = Null
