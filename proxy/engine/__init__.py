"""The bundled inference engine: a small decoder in plain torch, with continuous batching, behind an OpenAI-compatible API.

Torch is loaded in this package alone and in a process of its own; import `proxy.engine.main` to run it.
"""
