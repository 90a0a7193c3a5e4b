"""The default task model against prompts written by hand apart from those that taught it."""
from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from farthing.errors import DocumentError
from farthing.policy import task as tasks
from farthing.policy.features import Text
from farthing.policy.task import TASKS, Judgement, TaskModel

LABELLED = [
    (task, prompt.replace("\\n", "\n"))
    for task, _, prompt in (
        line.partition("\t")
        for line in (Path(__file__).parent / "data" / "task_prompts.tsv").read_text().splitlines()
    )
]
MODEL = TaskModel.default()


def _judge(prompt: str, tools: int = 0) -> Judgement:
    return MODEL.judge(Text(prompt, tools=tools))


def test_three_of_four_prompts_get_their_task_and_each_task_is_found_more_often_than_missed() -> None:
    right = Counter(task for task, prompt in LABELLED if _judge(prompt).task == task)
    assert len(LABELLED) == 225
    assert right.total() / len(LABELLED) >= 0.75
    assert all(right[task] / 25 > 0.5 for task in TASKS)


def test_a_confident_task_is_right_more_often_than_another() -> None:
    judged = [(_judge(prompt), task) for task, prompt in LABELLED]
    sure = [judgement.task == task for judgement, task in judged if judgement.confidence > 0.6]
    unsure = [judgement.task == task for judgement, task in judged if judgement.confidence <= 0.6]
    assert len(sure) > 150
    assert sum(sure) / len(sure) >= 0.85 > 0.6 >= sum(unsure) / len(unsure)


def test_offered_tools_make_tool_use_likelier() -> None:
    asked = [prompt for task, prompt in LABELLED if task == "tool_use"]
    with_tools = sum(_judge(prompt, tools=5).task == "tool_use" for prompt in asked)
    assert with_tools >= 23 > sum(_judge(prompt).task == "tool_use" for prompt in asked)


@pytest.mark.parametrize(
    ("prompt", "low", "high"),
    [
        ("Is this spam? Answer yes or no. Win a prize now!", 1, 8),
        ("Write a poem of 100 words about fog", 120, 150),
        ("Summarise the report in two sentences: " + "The company grew. " * 30, 40, 70),
        ("Write a long fantasy story about a dragon", 200, 500),
    ],
)
def test_the_expected_length_follows_what_is_asked_for(prompt: str, low: int, high: int) -> None:
    assert low <= _judge(prompt).tokens <= high


def test_scores_order_plain_cases() -> None:
    proof = _judge("Prove that there are infinitely many primes. Justify each step.")
    poem = _judge("Write a poem about the autumn leaves")
    fact = _judge("Who painted Guernica?")
    assert proof.reasoning > max(poem.reasoning, fact.reasoning)
    assert proof.complexity > fact.complexity
    assert poem.creativity > max(proof.creativity, fact.creativity)
    assert fact.factual > max(poem.factual, proof.factual)


@pytest.mark.parametrize("prompt", ["", "\0", "?", "\ud800", "日本語のテキスト", "x" * 50_000, "a b " * 20_000])
def test_any_text_gets_a_task_and_scores_within_bounds(prompt: str) -> None:
    judged = _judge(prompt)
    assert judged.task in TASKS
    scores = (judged.confidence, judged.complexity, judged.creativity, judged.reasoning, judged.factual)
    assert all(0 <= score <= 1 for score in scores)
    assert judged.tokens >= 1


def test_a_changed_weight_is_refused() -> None:
    shipped = Path(tasks.__file__).with_name("task_weights.json").read_bytes()
    with pytest.raises(DocumentError, match="checksum"):
        TaskModel.from_json(shipped.replace(b'"^summarise":[', b'"^summarize":[', 1))
