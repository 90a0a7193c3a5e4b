"""OpenAI-compatible requests in, tokens and spans out; imports nothing here, so that the proxy never loads torch."""
