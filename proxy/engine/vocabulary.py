"""Builds the byte-level BPE tokenizer from a GGUF file's metadata, and maps each token to the bytes that it stands for.

The pre-tokenizer is SmolLM2's: digits one by one, then GPT-2's words.
"""
from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from farthing.errors import EngineError

CONTROL = 3  # gguf.TokenType.CONTROL


def build_tokenizer(meta: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer that the `tokenizer.ggml.*` metadata describes.

    Raises:
        EngineError: the metadata names a pre-tokenizer other than SmolLM's.
    """
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise EngineError(f"tokenizer {meta['tokenizer.ggml.pre']!r} is not supported; only smollm is")
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of every token, by id; a control token stands for none."""
    byte_of = {char: byte for byte, char in _byte_characters().items()}
    table = [b""] * tokenizer.get_vocab_size()
    control = tokenizer.get_added_tokens_decoder()
    for token, index in tokenizer.get_vocab().items():
        if index not in control:
            table[index] = bytes(byte_of[char] for char in token)
    return table


def _byte_characters() -> dict[int, str]:
    """Return GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
