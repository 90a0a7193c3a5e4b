"""Turns chat messages into SmolLM2's prompt tokens.

The template's control tokens are placed by id; a message's text is encoded as text alone, so `<|im_end|>` written by a
user stays ten characters and cannot end the turn.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from farthing.errors import EngineError
from proxy.engine.vocabulary import token_bytes

DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
TEXT_END = "<|endoftext|>"


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str  # system | user | assistant
    content: str


class ChatTokenizer:
    """The tokenizer of one set of weights, and its chat template."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.table = token_bytes(self._tokenizer)  # bytes of each token, by id
        self._start = self._control(TURN_START)
        self._end = self._control(TURN_END)
        self.stop_tokens = frozenset((self._end, self._control(TEXT_END)))
        self._tokenizer.encode_special_tokens = True  # the library's name for: treat them as ordinary text
        self._newline = self.encode("\n")

    def _control(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise EngineError(f"the tokenizer has no {token}; these weights are of no chat model it knows")
        return index

    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain `text`."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`; control tokens have none."""
        return b"".join(self.table[token] for token in tokens).decode("utf-8", "replace")

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a chat, up to where the assistant's answer begins."""
        if not messages or messages[0].role != "system":
            messages = (Message("system", DEFAULT_SYSTEM), *messages)
        tokens: list[int] = []
        for message in messages:
            tokens += [self._start, *self.encode(f"{message.role}\n{message.content}"), self._end, *self._newline]
        return (*tokens, self._start, *self.encode("assistant\n"))
