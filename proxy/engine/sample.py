"""Chooses the next token of each row from its logits: greedy, or by temperature and nucleus with a seed of its own."""
from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

HEAD = 512  # candidates sorted first; a full sort of the vocabulary is 10x slower and seldom needed


@dataclass(frozen=True)
class Sampling:
    """How one request wants its tokens chosen."""

    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0  # nucleus: the share of probability to keep
    seed: int | None = None  # same seed, same prompt: same answer; None = random

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-4 or self.top_p <= 0


class Sampler:
    """One request's choices; its random numbers do not depend on who shares the batch."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = Generator()
        self._random.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)

    def draw(self, logits: Tensor) -> int:
        """Return a token drawn from `logits`, [vocabulary]."""
        chances = torch.softmax(logits.float().cpu() / self.sampling.temperature, -1)
        if self.sampling.top_p >= 1:
            return int(torch.multinomial(chances, 1, generator=self._random))
        kept, ids = nucleus(chances, self.sampling.top_p)
        return int(ids[torch.multinomial(kept, 1, generator=self._random)])


def nucleus(chances: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the fewest likeliest tokens that together reach `top_p`: their chances, descending, and their ids."""
    kept, ids = chances.topk(min(HEAD, chances.numel()))
    if kept.sum() < top_p:
        kept, ids = chances.sort(descending=True)
    before = kept.cumsum(-1) - kept
    count = int((before < top_p).sum())
    return kept[:count], ids[:count]


@torch.inference_mode()
def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Return the next token of each row of `logits`, [rows, vocabulary]."""
    greedy: list[int] = logits.argmax(-1).tolist()
    return [
        likeliest if sampler.sampling.is_greedy else sampler.draw(row)
        for likeliest, row, sampler in zip(greedy, logits, samplers, strict=True)
    ]
