"""Trains the default task model from the project's own seed prompts: `python -m analyzer.task_fit` writes its file.

The same seed gives the same file. Passages and topics are dealt to every task alike, so that no subject stands for a
task.
"""
from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from analyzer.logistic import Sparse, Vector, fit_logistic, sparse
from farthing.policy import task as tasks
from farthing.policy.features import Text, Words

SEED_FILE = Path(__file__).parent / "task_seed.txt"
PASSAGES = Path(__file__).parent / "task_passages.txt"
EACH = 360  # prompts made of each task
_TOOLS = 0.5  # share of tool-use prompts that come with tools; of others a tenth of that
_TIMES = 4  # prompts made of each word of its trade
_STRENGTH = 4  # of the prompts against the prior; 5,000 prompts that are much alike are worth fewer
_MIN_WEIGHT = 0.8  # a word with less in every task is left out
_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")


def main() -> None:
    """Write the model beside the module that reads it."""
    path = Path(tasks.__file__).parent / "task_weights.json"
    path.write_text(train() + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


def prompts(seed: int = 0) -> Iterator[tuple[str, Text]]:
    """Yield (task, prompt): EACH of every task, and each word of its trade among words of passages."""
    dice = random.Random(seed)
    passages = _lines(PASSAGES)
    patterns: dict[str, list[str]] = {name: [] for name in tasks.TASKS}
    for line in _lines(SEED_FILE):
        name, _, pattern = line.partition("\t")
        if pattern.startswith("= "):
            for word in pattern[2:].split():
                yield from ((name, Text(_among(word, passages, dice))) for _ in range(_TIMES))
        else:
            patterns[name].append(pattern)
    for name, own in patterns.items():
        for number in range(EACH):
            tools = int(dice.random() < (_TOOLS if name == "tool_use" else _TOOLS / 10))
            yield name, Text(_filled(own[number % len(own)], passages, dice), tools=tools)


def _among(word: str, passages: list[str], dice: random.Random) -> str:
    others = dice.sample(" ".join(passages).split(), 3)
    place = dice.randrange(4)
    return " ".join([*others[:place], word, *others[place:]])


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _filled(pattern: str, passages: list[str], dice: random.Random) -> str:
    prompt = _CHOICE.sub(lambda found: dice.choice(found[1].split("|")), pattern).replace("\\n", "\n")
    prompt = re.sub("<topic>", lambda _: " ".join(dice.choice(passages).split()[: dice.choice((1, 2, 2, 3))]), prompt)
    prompt = re.sub("<text>", lambda _: dice.choice(passages), prompt)
    return prompt.replace("‹", "{").replace("›", "}")


def train(seed: int = 0) -> str:
    """Return the model's file."""
    made = list(prompts(seed))
    rows = [_cues(prompt) for _, prompt in made]
    names = sorted({cue for row in rows for cue in row[0] + row[1]})
    place = {cue: number for number, cue in enumerate(names)}
    x = sparse([_row(row, place) for row in rows], len(names))
    fitted = [_fit(x, np.array([float(name == own) for own, _ in made])) for name in tasks.TASKS]
    weights = {
        cue.decode("utf-8", "replace"): [round(100 * float(own[place[cue]])) for own, _ in fitted]
        for cue in names
        if max(abs(float(own[place[cue]])) for own, _ in fitted) >= _MIN_WEIGHT
    }
    bias = [round(100 * bias) for _, bias in fitted]
    model = {"format": tasks.FORMAT, "tasks": tasks.TASKS, "bias": bias, "weights": weights}
    model["trained"] = f"{len(made)} prompts made from {SEED_FILE.name}"
    return json.dumps({**model, "checksum": tasks.task_checksum(model)}, ensure_ascii=False, separators=(",", ":"))


def _cues(text: Text) -> tuple[list[bytes], list[bytes]]:
    words = Words(text.user)
    return tasks.body(words), tasks.cues(words, text)


def _row(row: tuple[list[bytes], list[bytes]], place: dict[bytes, int]) -> tuple[list[int], list[float]]:
    body, cues = row
    values = [len(body) ** -0.5 if body else 0.0] * len(body) + [tasks.CUE_WEIGHT] * len(cues)
    return [place[cue] for cue in body + cues], values


def _fit(x: Sparse, right: Vector) -> tuple[Vector, float]:
    return fit_logistic(x, right, np.ones(len(right)), _STRENGTH)


if __name__ == "__main__":
    main()
