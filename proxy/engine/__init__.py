"""The bundled inference engine: a small decoder in plain torch, with continuous batching, behind OpenAI's chat API.

Torch is loaded in this package alone, and in a process of its own; `proxy.engine.main` runs it.
"""
