"""OpenAI-compatible requests in, tokens and spans out. Nothing here imports torch; the engine is a process of its own."""
