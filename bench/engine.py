"""What continuous batching gives: tokens per second of the bundled engine at 1, 4 and 8 requests, beside one at a time.

Run `python bench/engine.py`; the last line is one JSON object, and the exit code is 1 where a limit is missed.
"""
from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from verdict import conclude

from farthing.settings import Settings
from proxy.engine.chat import ChatTokenizer, Message
from proxy.engine.model import Llama, load_model
from proxy.engine.sample import Sampling
from proxy.engine.scheduler import Request, Scheduler
from proxy.engine.steps import StepEvent
from proxy.engine.text import TextStream
from proxy.engine.weights import ensure_weights

BATCHES = (1, 4, 8)
REQUESTS = 8
NEW_TOKENS = 24
ROUNDS = 3  # the fastest counts: other work on the machine only ever slows one down
TOPICS = ("rivers", "trains", "bread", "clouds", "music", "chess", "tea", "bees")
LIMITS = {
    "float32_b8_over_b1": (">=", 2.0),
    "b8_bfloat16_over_float32": (">=", 1.0),
    "float32_same_tokens": (">=", 1.0),
}


@dataclass(frozen=True)
class Round:
    """One run of all requests at one batch size."""

    tokens_per_s: float  # answer tokens over wall time, prefill included
    step_ms: float  # mean decode step
    prefill_ms: float  # mean per request
    answers: list[str]


def run_round(model: Llama, chat: ChatTokenizer, batch: int) -> Round:
    """Answer all requests, at most `batch` of them at once, with no prefix reuse."""
    scheduler = Scheduler(model, max(BATCHES), 256)
    scheduler.max_batch = batch
    scheduler.reuse_prefix = False
    parts: list[list[str]] = [[] for _ in range(REQUESTS)]
    for i, topic in enumerate(TOPICS[:REQUESTS]):
        prompt = chat.prompt([Message("user", f"Write a long paragraph about {topic}.")])
        keep = parts[i].append
        text = TextStream(chat.table)
        scheduler.submit(Request(str(i), prompt, text, lambda o, keep=keep: keep(o.text), NEW_TOKENS, Sampling(0.0)))
    started = time.perf_counter()
    events = list(scheduler.steps())
    seconds = time.perf_counter() - started
    prefill_ms = 1e3 * sum(e.duration_s for e in events if e.phase == "prefill") / REQUESTS
    return Round(REQUESTS * NEW_TOKENS / seconds, _decode_ms(events), prefill_ms, ["".join(part) for part in parts])


def _decode_ms(events: list[StepEvent]) -> float:
    decode = [event.duration_s for event in events if event.phase == "decode"]
    return 1e3 * sum(decode) / len(decode)


def measure(folder: Path, dtype: str) -> dict[int, Round]:
    """Return the best round of each batch size; the sizes take turns, so that a slow minute hits all of them."""
    model, chat = load_model(folder, dtype), ChatTokenizer(folder)
    run_round(model, chat, 8)  # warm-up
    rounds = [{batch: run_round(model, chat, batch) for batch in BATCHES} for _ in range(ROUNDS)]
    return {batch: max((r[batch] for r in rounds), key=lambda r: r.tokens_per_s) for batch in BATCHES}


def main() -> int:
    """Measure, print, and return the exit code."""
    torch.set_num_threads(1)
    folder = ensure_weights(Settings().cache_dir, "smollm2-135m")
    figures: dict[str, float] = {}
    for dtype in ("float32", "bfloat16"):
        best = measure(folder, dtype)
        for batch, found in best.items():
            ratio = found.tokens_per_s / best[1].tokens_per_s
            print(
                f"{dtype:8} B={batch}  {found.tokens_per_s:6.1f} tok/s  {ratio:4.2f}x of one at a time  "
                f"decode step {found.step_ms:5.1f} ms  prefill {found.prefill_ms:4.0f} ms a request"
            )
            figures[f"{dtype}_b{batch}_tokens_per_s"] = round(found.tokens_per_s, 1)
            figures[f"{dtype}_b{batch}_step_ms"] = round(found.step_ms, 1)
        figures[f"{dtype}_b8_over_b1"] = round(best[8].tokens_per_s / best[1].tokens_per_s, 2)
        figures[f"{dtype}_same_tokens"] = sum(a == b for a, b in zip(best[1].answers, best[8].answers, strict=True)) / 8
    speed_up = figures["bfloat16_b8_tokens_per_s"] / figures["float32_b8_tokens_per_s"]
    figures["b8_bfloat16_over_float32"] = round(speed_up, 2)
    return conclude("engine", figures, LIMITS, torch=torch.__version__, threads=1)


if __name__ == "__main__":
    sys.exit(main())
