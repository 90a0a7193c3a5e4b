"""A Llama-family decoder (RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied head) in plain torch.

It reads and writes a `SlotCache` and keeps no state of its own. In float32 a row's greedy tokens do not depend on which
other rows share its decode step. With bfloat16 weights the residual stream, the norms and the rotation stay float32: it
costs 15 % of a step, and without it an answer changes with the length of the reused prefix (measured).
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from farthing.errors import EngineError
from proxy.engine.kv import SlotCache

CANDIDATES = 8  # tokens whose bfloat16 logits are computed again in float32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, as its config.json gives them."""

    layers: int
    heads: int  # query heads
    kv_heads: int
    head_dim: int
    max_tokens: int  # positions that the model was trained for
    rope_theta: float
    norm_eps: float


@dataclass(frozen=True)
class Layer:
    """The weights of one decoder layer; projections that read the same input are one matrix."""

    norm: Tensor  # [hidden]
    qkv: Tensor  # [(heads + 2 * kv_heads) * head_dim, hidden]
    out: Tensor  # [hidden, heads * head_dim]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 * intermediate, hidden]
    down: Tensor  # [hidden, intermediate]


@dataclass(frozen=True)
class Run:
    """Rows of a decode step whose slots are neighbours, so that attention reads the cache in place.

    Gathering the slots instead copies the whole cache each step: 1.7 against 0.7 ms per layer at 8 x 1,000 tokens.
    """

    rows: slice
    slots: slice
    tokens: int  # the longest context among the rows
    mask: Tensor  # [rows, 1, 1, tokens] bool; True = may be seen


def runs(slots: Sequence[int], positions: Sequence[int], device: torch.device) -> list[Run]:
    """Cut a decode step, given its ascending `slots`, into runs of neighbouring slots."""
    starts = [i for i in range(len(slots)) if i == 0 or slots[i] != slots[i - 1] + 1]
    made: list[Run] = []
    for first, end in zip(starts, [*starts[1:], len(slots)], strict=True):
        tokens = max(positions[first:end]) + 1
        seen = torch.tensor(positions[first:end], device=device)[:, None]
        mask = (torch.arange(tokens, device=device) <= seen)[:, None, None]
        made.append(Run(slice(first, end), slice(slots[first], slots[end - 1] + 1), tokens, mask))
    return made


class Llama:
    """The decoder; call `prefill` for one slot, then `decode` for all of them."""

    def __init__(self, shape: Shape, embedding: Tensor, norm: Tensor, layers: list[Layer]) -> None:
        self.shape = shape
        self.dtype = embedding.dtype
        self.device = embedding.device
        self._embedding = embedding  # [vocabulary, hidden]; also the output head
        self._norm = norm  # [hidden]
        self._layers = layers
        self._cos, self._sin = self._rotary(shape)

    def new_cache(self, slots: int, max_tokens: int) -> SlotCache:
        """Return an empty cache of `slots` sequences of at most `max_tokens` tokens."""
        shape = self.shape
        return SlotCache(
            (shape.layers, slots, shape.kv_heads, min(max_tokens, shape.max_tokens), shape.head_dim),
            self.dtype,
            self.device,
        )

    @torch.inference_mode()
    def prefill(self, cache: SlotCache, slot: int, start: int, ids: Sequence[int]) -> Tensor:
        """Compute `ids`, which follow the first `start` tokens of `slot`; return the last's logits, [vocabulary]."""
        end = start + len(ids)
        hidden = self._embed(ids)  # [tokens, hidden]
        turn = (self._cos[start:end], self._sin[start:end])  # each [tokens, head_dim]
        at = torch.arange(end, device=self.device)
        mask = None if start == 0 else at <= at[start:, None]  # [tokens, context]
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            q, k, v = self._project(layer, hidden, turn)
            keys[slot, :, start:end] = k.transpose(0, 1)
            values[slot, :, start:end] = v.transpose(0, 1)
            seen = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None],
                keys[slot, None, :, :end],
                values[slot, None, :, :end],
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=True,
            )
            hidden = self._close(layer, hidden, seen[0].transpose(0, 1).flatten(1))
        return self._logits(hidden[-1:])[0]

    @torch.inference_mode()
    def decode(self, cache: SlotCache, slots: Sequence[int], positions: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Compute one token of each of the ascending `slots`; return their logits, [rows, vocabulary]."""
        where = torch.tensor(positions, device=self.device)
        hidden = self._embed(ids)  # [rows, hidden]
        turn = (self._cos[where], self._sin[where])
        index = torch.tensor(slots, device=self.device)
        parts = runs(slots, positions, self.device)
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            q, k, v = self._project(layer, hidden, turn)
            keys[index, :, where] = k
            values[index, :, where] = v
            hidden = self._close(layer, hidden, self._attend(parts, q, keys, values))
        return self._logits(hidden)

    def _embed(self, ids: Sequence[int]) -> Tensor:
        """Return the residual stream's start; it is float32 throughout, whatever the weights' dtype."""
        return self._embedding[torch.tensor(ids, device=self.device)].float()

    def _attend(self, parts: list[Run], q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what each row's one query sees, [rows, heads * head_dim].

        The query heads that share a KV head stand where the query's positions would, which spares copying the KV heads.
        """
        grouped = q.unflatten(1, (self.shape.kv_heads, -1))  # [rows, kv_heads, group, head_dim]
        seen = [
            F.scaled_dot_product_attention(
                grouped[run.rows],
                keys[run.slots, :, : run.tokens],
                values[run.slots, :, : run.tokens],
                attn_mask=run.mask,
            )
            for run in parts
        ]
        return (seen[0] if len(seen) == 1 else torch.cat(seen)).flatten(1)

    def _project(self, layer: Layer, hidden: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k (both rotated) and v of every row, each [rows, heads, head_dim]."""
        heads, kv_heads = self.shape.heads, self.shape.kv_heads
        mixed = F.linear(self._rms(hidden, layer.norm), layer.qkv).unflatten(1, (-1, self.shape.head_dim))
        q, k, v = mixed.split([heads, kv_heads, kv_heads], 1)
        return _rotate(q, *turn).to(self.dtype), _rotate(k, *turn).to(self.dtype), v

    def _close(self, layer: Layer, hidden: Tensor, seen: Tensor) -> Tensor:
        """Return the layer's output: attention's projection and the MLP, each added to its input."""
        hidden = hidden + F.linear(seen, layer.out)
        gate, up = F.linear(self._rms(hidden, layer.mlp_norm), layer.gate_up).chunk(2, -1)
        return hidden + F.linear(F.silu(gate) * up, layer.down)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits, [rows, vocabulary]; the likeliest are computed again in float32.

        bfloat16 logits near 25 are 0.125 apart, which makes ties of tokens that are not equally likely.
        """
        normed = self._rms_exact(hidden, self._norm)
        logits = F.linear(normed.to(self.dtype), self._embedding).float()
        if self.dtype == torch.float32:
            return logits
        likeliest = logits.topk(CANDIDATES).indices  # [rows, CANDIDATES]
        exact = torch.einsum("rch,rh->rc", self._embedding[likeliest].float(), normed)
        return logits.scatter(1, likeliest, exact)

    def _rms(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return self._rms_exact(hidden, weight).to(self.dtype)

    def _rms_exact(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self.shape.norm_eps)

    def _rotary(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of every position's angles, each [positions, head_dim]."""
        rate = 1 / shape.rope_theta ** (torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angle = torch.outer(torch.arange(shape.max_tokens).float(), rate).repeat(1, 2)
        return angle.cos().to(self.device), angle.sin().to(self.device)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [rows, heads, head_dim] by each row's angles, in Hugging Face's half-and-half layout."""
    low, high = heads.chunk(2, -1)
    return heads * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]


def read_shape(config: dict[str, Any]) -> Shape:
    """Return the sizes that a config.json gives."""
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        max_tokens=config["max_position_embeddings"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
    )


def load_model(folder: Path, dtype: str, device: str = "cpu") -> Llama:
    """Load the decoder in `folder` (as `ensure_weights` wrote it) in `dtype`, on `device`.

    Raises:
        EngineError: the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise EngineError(f"dtype {dtype!r} is not supported; a deployment may set dtype to: {', '.join(DTYPES)}")
    shape = read_shape(json.loads((folder / "config.json").read_text("utf-8")))
    with safe_open(folder / "model.safetensors", framework="pt") as stored:

        def take(*names: str) -> Tensor:
            parts = [stored.get_tensor(f"model.{name}.weight") for name in names]
            # contiguous memory of its own: a tensor that stays mapped from the file faults page by page
            return torch.cat(parts).to(device, DTYPES[dtype])

        layers = [
            Layer(
                take(f"layers.{i}.input_layernorm").float(),
                take(*(f"layers.{i}.self_attn.{name}_proj" for name in "qkv")),
                take(f"layers.{i}.self_attn.o_proj"),
                take(f"layers.{i}.post_attention_layernorm").float(),
                take(f"layers.{i}.mlp.gate_proj", f"layers.{i}.mlp.up_proj"),
                take(f"layers.{i}.mlp.down_proj"),
            )
            for i in range(shape.layers)
        ]
        return Llama(shape, take("embed_tokens"), take("norm").float(), layers)
