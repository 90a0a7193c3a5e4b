"""Spans in, rows out: OTLP bodies are checked, spooled durably, then acknowledged; the warehouse does the rest."""
