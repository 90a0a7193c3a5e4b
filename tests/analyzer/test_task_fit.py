"""The default task model is what the project's own seed prompts teach."""
from __future__ import annotations

import json
from pathlib import Path

from analyzer.task_fit import EACH, prompts, train
from farthing.policy import task as tasks

LABELLED = Path(__file__).parent.parent / "farthing" / "data" / "task_prompts.tsv"


def test_no_labelled_prompt_is_among_those_that_teach() -> None:
    taught = {text.user for _, text in prompts()}
    assert len(taught) > EACH
    assert not taught & {line.partition("\t")[2] for line in LABELLED.read_text().splitlines()}


def test_the_shipped_weights_are_those_that_the_seed_prompts_give() -> None:
    shipped = json.loads(Path(tasks.__file__).with_name("task_weights.json").read_text())["weights"]
    given = json.loads(train())["weights"]
    # another processor rounds otherwise, and a word at the edge of being kept may fall out
    both = shipped.keys() & given.keys()
    assert len(both) >= 0.99 * max(len(shipped), len(given))
    assert max(abs(a - b) for word in both for a, b in zip(shipped[word], given[word], strict=True)) <= 3
