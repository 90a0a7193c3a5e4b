-- Normalises and prices the log events that stand for a model call of a coding agent; generated from farthing/agents.py.
CREATE MATERIALIZED VIEW IF NOT EXISTS agent_requests_mv TO requests AS
{{normalise_agent_calls}}
