"""OpenAI-compatible requests in, tokens and spans out; nothing here imports torch, since the engine is a process."""
