"""The APIs that clients speak, one file each; whatever is listed here is served, and only through admission."""
from __future__ import annotations

from proxy.formats.chat import Chat
from proxy.formats.completions import Completions
from proxy.formats.embeddings import Embeddings
from proxy.formats.format import Format, Told
from proxy.formats.messages import Messages
from proxy.formats.responses import Responses

FORMATS: tuple[Format, ...] = (Chat(), Completions(), Responses(), Embeddings(), Messages())

__all__ = ["FORMATS", "Format", "Told"]
