from __future__ import annotations

from pathlib import Path

import pytest
import torch

from farthing.errors import EngineError
from proxy.engine.chat import ChatTokenizer, Message
from proxy.engine.kv import SlotCache, common_prefix
from proxy.engine.model import Llama, load_model, runs

TOPICS = ("rivers", "trains", "bread", "clouds", "music", "chess", "tea", "bees")


def greedy(model: Llama, prompts: list[tuple[int, ...]], slots: list[int], count: int) -> list[list[int]]:
    """Return `count` greedy tokens of each prompt, all decoded together in the ascending `slots`."""
    cache = model.new_cache(max(slots) + 1, 128)
    answers = [
        [int(model.prefill(cache, slot, 0, prompt).argmax())] for slot, prompt in zip(slots, prompts, strict=True)
    ]
    for i in range(count - 1):
        positions = [len(prompt) + i for prompt in prompts]
        logits = model.decode(cache, slots, positions, [answer[-1] for answer in answers])
        for answer, token in zip(answers, logits.argmax(-1).tolist(), strict=True):
            answer.append(token)
    return answers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_capital_of_france_is_paris(weights: Path, model: Llama, chat: ChatTokenizer, dtype: str) -> None:
    used = model if dtype == "float32" else load_model(weights, dtype)
    prompt = chat.prompt([Message("user", "What is the capital of France?")])
    assert chat.decode(greedy(used, [prompt], [0], 8)[0]) == "The capital of France is Paris."


def test_in_float32_eight_rows_get_the_tokens_that_each_gets_alone(model: Llama, chat: ChatTokenizer) -> None:
    questions = [f"Write about {topic}." + " Be brief." * i for i, topic in enumerate(TOPICS)]
    prompts = [chat.prompt([Message("user", question)]) for question in questions]
    together = greedy(model, prompts, list(range(8)), 5)
    assert together == [greedy(model, [prompt], [0], 5)[0] for prompt in prompts]
    assert len({tuple(answer) for answer in together}) == 8  # they are answers to eight questions


def test_slots_with_gaps_between_them_change_nothing(model: Llama, chat: ChatTokenizer) -> None:
    prompts = [chat.prompt([Message("user", f"Write about {topic}.")]) for topic in TOPICS[:4]]
    assert greedy(model, prompts, [0, 2, 3, 6], 4) == greedy(model, prompts, [0, 1, 2, 3], 4)


def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(model: Llama, chat: ChatTokenizer) -> None:
    prompt = chat.prompt([Message("user", "Name three colours of the sky at dusk.")])
    cache = model.new_cache(2, 64)
    whole = model.prefill(cache, 0, 0, prompt)
    model.prefill(cache, 1, 0, prompt[:10])
    model.prefill(cache, 1, 10, prompt[10:23])
    assert torch.allclose(model.prefill(cache, 1, 23, prompt[23:]), whole, atol=1e-3)


def test_in_bfloat16_the_first_token_does_not_hang_on_how_much_was_reused(weights: Path, chat: ChatTokenizer) -> None:
    model = load_model(weights, "bfloat16")
    prompt = chat.prompt([Message("user", "What is the capital of France?")])
    cache = model.new_cache(1, 64)
    firsts: list[str] = []
    for cached in (10, 22, 30, 36):  # "The" leads "L" by 0.08 of 25.3 here, less than bfloat16 can tell apart
        model.prefill(cache, 0, 0, prompt[:cached])
        firsts.append(chat.decode([int(model.prefill(cache, 0, cached, prompt[cached:]).argmax())]))
    assert firsts == ["The"] * 4


def test_decoding_a_token_gives_the_logits_of_prefilling_it(model: Llama, chat: ChatTokenizer) -> None:
    prompt = chat.prompt([Message("user", "Count to five.")])
    cache = model.new_cache(2, 64)
    whole = model.prefill(cache, 0, 0, prompt)
    model.prefill(cache, 1, 0, prompt[:-1])
    assert torch.allclose(model.decode(cache, [1], [len(prompt) - 1], prompt[-1:])[0], whole, atol=1e-3)


def test_runs_cut_rows_where_a_slot_is_missing() -> None:
    made = runs([0, 1, 3, 4, 7], [5, 9, 2, 3, 6], torch.device("cpu"))
    assert [(run.rows, run.slots, run.tokens) for run in made] == [
        (slice(0, 2), slice(0, 2), 10),
        (slice(2, 4), slice(3, 5), 4),
        (slice(4, 5), slice(7, 8), 7),
    ]
    assert made[0].mask.sum(-1).flatten().tolist() == [6, 10]  # each row sees itself and what came before


def test_an_unknown_dtype_names_the_ones_that_there_are(weights: Path) -> None:
    with pytest.raises(EngineError, match=r"dtype 'int3' is not supported.*float32, bfloat16"):
        load_model(weights, "int3")


def small_cache(slots: int) -> SlotCache:
    return SlotCache((1, slots, 1, 64, 2), torch.float32, torch.device("cpu"))


def test_a_prompt_takes_over_the_prefix_of_another_slot() -> None:
    cache = small_cache(3)
    prompt = list(range(20))
    first = cache.acquire(prompt)
    cache.extend(first.slot, prompt)
    cache.keys[0][first.slot, :, :20] = 7.0
    second = cache.acquire([*prompt[:12], 99, 98])
    assert first.cached_tokens == 0 and second.cached_tokens == 12 and second.slot != first.slot
    assert cache.keys[0][second.slot, 0, :, 0].tolist() == [7.0] * 12 + [0.0] * 52


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    cache = small_cache(2)
    prompt = list(range(20))
    cache.extend(cache.acquire(prompt).slot, prompt)
    assert cache.acquire(prompt).cached_tokens == 19


def test_a_conversation_continues_in_its_own_slot() -> None:
    cache = small_cache(3)
    turn = list(range(20))
    lease = cache.acquire(turn)
    cache.extend(lease.slot, turn)
    cache.release(lease.slot)
    again = cache.acquire([*turn, 50, 51])
    assert (again.slot, again.cached_tokens) == (lease.slot, 20)


def test_a_short_prefix_is_not_reused() -> None:
    cache = small_cache(2)
    cache.extend(cache.acquire([1, 2, 3, 4]).slot, [1, 2, 3, 4])
    assert cache.acquire([1, 2, 3, 9]).cached_tokens == 0


def test_the_slot_that_was_released_first_is_taken_first() -> None:
    cache = small_cache(3)
    slots = [cache.acquire([i]).slot for i in (1, 2, 3)]
    for slot in (slots[1], slots[0], slots[2]):
        cache.release(slot)
    assert [cache.acquire([9]).slot for _ in range(3)] == [slots[1], slots[0], slots[2]]


def test_common_prefix_counts_leading_equal_tokens() -> None:
    assert [common_prefix(a, b) for a, b in (([], [1]), ([1, 2], [1, 2, 3]), ([1, 2], [1, 3]))] == [0, 2, 1]
