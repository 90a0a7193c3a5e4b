-- Raw OTLP request bodies come in here, one row each, and are stored nowhere.
CREATE TABLE IF NOT EXISTS otlp_in ({{otlp_structure}}) ENGINE = Null
