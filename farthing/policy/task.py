"""What kind of task a prompt is and how much it asks for, judged by its words in some tens of microseconds.

The default weights are learned from prompts written for this project, and the scores are rules over the task; docs say
how often they are right. They serve until a tenant's own outcomes speak: then `farthing.policy.gain` decides.
"""
from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from math import exp, log, sqrt
from typing import Any, cast

from farthing.errors import DocumentError
from farthing.policy.features import Text, Words

__all__ = ["CUE_WEIGHT", "FORMAT", "TASKS", "Judgement", "TaskModel", "body", "cues"]

FORMAT = "farthing/task-1"
TASKS = (
    "classification", "extraction", "summarisation", "translation", "simple_qa", "reasoning", "creative", "code",
    "tool_use",
)  # fmt: skip
CUE_WEIGHT = 0.5  # of a mark or a leading word, beside a body whose squares sum to 1
_HEAD, _TAIL, _LEAD = 64, 24, 3  # words read of the begin, of the end, and as leading ones

# Of each task, where nothing else is known: complexity, creativity, reasoning, need of facts, tokens of the answer.
_PRIORS: Mapping[str, tuple[float, float, float, float, float]] = {
    "classification": (0.15, 0.05, 0.20, 0.15, 6),
    "extraction": (0.25, 0.05, 0.20, 0.15, 80),
    "summarisation": (0.35, 0.20, 0.30, 0.20, 130),
    "translation": (0.30, 0.20, 0.15, 0.20, 90),
    "simple_qa": (0.20, 0.05, 0.20, 0.80, 90),
    "reasoning": (0.75, 0.15, 0.85, 0.45, 260),
    "creative": (0.50, 0.90, 0.30, 0.15, 350),
    "code": (0.65, 0.25, 0.65, 0.35, 320),
    "tool_use": (0.45, 0.05, 0.40, 0.35, 60),
}  # fmt: skip
_HARD = frozenset(
    b"prove derive optimise optimize analyse analyze evaluate justify compare tradeoffs constraints step theorem "
    b"integral probability architecture design why implications strategy debug diagnose".split()
)
_ONE_WORD = (b"yes or no", b"one word", b"only the l", b"only the a", b"only the n", b"only the c", b"true or false")
_ASKED = re.compile(
    rb"\b(\d{1,4}|a|an|one|two|three|four|five|ten) (?:\w+ )?(word|sentence|paragraph|bullet|page|line)"
)
_TOKENS_EACH = {b"word": 1.35, b"sentence": 26.0, b"paragraph": 110.0, b"bullet": 22.0, b"page": 550.0, b"line": 14.0}
_SHORT = frozenset(("classification", "simple_qa", "tool_use"))  # a length in these is rarely the answer's
_NUMBERS = {b"a": 1, b"an": 1, b"one": 1, b"two": 2, b"three": 3, b"four": 4, b"five": 5, b"ten": 10}
_OPTIONS = re.compile(rb"\n\(?[A-Ea-e][.):] ?")
_CODE = (
    b"```", b"def ", b"SELECT ", b";\n", b"() {", b"(){", b"=>", b"#include", b"\nimport ", b"\nclass ", b"Traceback",
    b"</", b"):\n",
)  # fmt: skip
_MATHS = (b"=", b"^", b"\\frac", b" + ", b"%")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a prompt asks for; scores are between 0 and 1."""

    task: str  # one of TASKS
    confidence: float  # P(task), as far as the model knows
    complexity: float
    creativity: float
    reasoning: float
    factual: float
    tokens: int  # expected length of the answer


class TaskModel:
    """Frozen weights of words and cues for each task, in hundredths.

    All weights of a word lie in one whole number, a lane for each task, so that one addition adds them all.
    """

    def __init__(self, bias: Sequence[int], weights: Mapping[str, Sequence[int]], trained: str) -> None:
        self.trained = trained
        self._bias = tuple(bias)
        self._weights = {word.encode(): _packed(row) for word, row in weights.items()}

    def judge(self, text: Text, words: Words | None = None) -> Judgement:
        """Return the task of a prompt and its scores; `words` are those already cut for another reader."""
        words = words or Words(text.user)
        chances = self._chances(words, text)
        best = max(chances)
        return _scored(TASKS[chances.index(best)], best, chances, words, text)

    def _chances(self, words: Words, text: Text) -> list[float]:
        find = self._weights.get
        known = [row for word in body(words) if (row := find(word))]
        shown = [row for cue in cues(words, text) if (row := find(cue))]
        each = 0.01 / sqrt(len(known) or 1)
        logits = [
            0.01 * bias + each * of_words + 0.01 * CUE_WEIGHT * of_cues
            for bias, of_words, of_cues in zip(self._bias, _summed(known), _summed(shown), strict=True)
        ]
        top = max(logits)
        raised = [exp(logit - top) for logit in logits]
        total = sum(raised)
        return [value / total for value in raised]

    @classmethod
    def default(cls) -> TaskModel:
        """Return the model that is shipped."""
        return _default()

    @classmethod
    def from_json(cls, body: bytes) -> TaskModel:
        """Read a model's file.

        Raises:
            DocumentError: another format, other tasks, or a checksum that does not fit.
        """
        try:
            read = cast("dict[str, Any]", json.loads(body))
            if read["format"] != FORMAT or tuple(read["tasks"]) != TASKS:
                raise ValueError(f"its format is {read['format']!r}; this version reads {FORMAT!r} and its own tasks")
            if read["checksum"] != task_checksum(read):
                raise ValueError("its checksum does not fit its weights")
            if any(len(row) != len(TASKS) for row in (*read["weights"].values(), read["bias"])):
                raise ValueError(f"a word has not {len(TASKS)} weights")
            return cls(read["bias"], read["weights"], str(read["trained"]))
        except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise DocumentError(f"not a task model: {error}; train it anew") from None


_LANES = struct.Struct(f"<{len(TASKS)}I")
_ZERO = 1 << 15  # what stands for 0 in a lane, so that no weight is negative and no lane borrows


def _packed(row: Sequence[int]) -> int:
    return int.from_bytes(_LANES.pack(*[value + _ZERO for value in row]), "little")


def _summed(rows: Sequence[int]) -> list[int]:
    """Return the sum of packed rows, lane by lane."""
    zeros = len(rows) * _ZERO
    return [lane - zeros for lane in _LANES.unpack(sum(rows).to_bytes(_LANES.size, "little"))]


def task_checksum(read: Mapping[str, Any]) -> str:
    """Return sha256 of what decides in a model's file, hex."""
    decides = {name: read[name] for name in ("format", "tasks", "bias", "weights")}
    return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@cache
def _default() -> TaskModel:
    return TaskModel.from_json(files("farthing.policy").joinpath("task_weights.json").read_bytes())


def body(words: Words) -> list[bytes]:
    """Return the distinct words of a prompt's begin and end."""
    found = words.found
    return list(dict.fromkeys(found if len(found) <= _HEAD + _TAIL else found[:_HEAD] + found[-_TAIL:]))


def cues(words: Words, text: Text) -> list[bytes]:
    """Return leading words and marks, spelled so that no word of a text can be one."""
    window, found = words.window, words.found
    shown = [b"^" + word for word in found[:_LEAD]]
    if len(found) > 1:
        shown.append(b"^" + found[0] + b" " + found[1])
    if any(map(window.__contains__, _CODE)):
        shown.append(b"#code")
    if b"\n" in window and len(_OPTIONS.findall(window)) > 2:
        shown.append(b"#options")
    if window.endswith(b"?"):
        shown.append(b"#asks")
    if window.endswith(b":"):
        shown.append(b"#colon")
    if b":" in window[:200] and len(window) > 120:
        shown.append(b"#passage")
    shown.append(b"#short" if len(found) < 12 else b"#long" if len(found) > 60 else b"#middle")
    if any(map(window.__contains__, _MATHS)) and b"#code" not in shown:
        shown.append(b"#maths")
    if sum(map(window.count, (b"0", b"1", b"2", b"3", b"4", b"5"))) > 2:
        shown.append(b"#numbers")
    if text.tools:
        shown.append(b"#tools")
    return shown


def _scored(task: str, best: float, chances: Sequence[float], words: Words, text: Text) -> Judgement:
    """Return the judgement: priors mixed by chance, raised by what makes a prompt hard, cut to [0, 1]."""
    mixed = [0.0] * 4
    tokens = 0.0
    for name, chance in zip(TASKS, chances, strict=True):
        if chance > 0.02:
            prior = _PRIORS[name]
            mixed = [value + chance * own for value, own in zip(mixed, prior, strict=False)]
            tokens += chance * log(prior[4])
    hard = 0.06 * min(4, len(_HARD.intersection(words.found))) + 0.03 * min(5.0, log(1 + len(text.user) / 400))
    return Judgement(
        task,
        best,
        min(1.0, mixed[0] + hard),
        min(1.0, mixed[1]),
        min(1.0, mixed[2] + hard),
        min(1.0, mixed[3]),
        _tokens(exp(tokens), task, words, text),
    )


def _tokens(usual: float, task: str, words: Words, text: Text) -> int:
    """Return the answer's expected length: what the prompt asks for, else what is usual for the task."""
    lower = (words.window[:400] + b" " + words.window[-200:]).lower()
    if any(map(lower.__contains__, _ONE_WORD)):
        return 4
    is_bounded = task not in _SHORT and any(map(lower.__contains__, _TOKENS_EACH))
    if is_bounded and (asked := _ASKED.search(lower)):
        number = _NUMBERS.get(asked[1]) or int(asked[1])
        return max(4, min(8_000, round(number * _TOKENS_EACH[asked[2]])))
    if task == "translation" and len(text.user) > 80:
        return round(len(text.user) / 4)  # four characters a token, and as long as what was given
    return max(1, round(usual))
