from __future__ import annotations

import threading

import pytest

from farthing.errors import EngineError
from proxy.engine.chat import ChatTokenizer, Message
from proxy.engine.model import Llama
from proxy.engine.sample import Sampling
from proxy.engine.scheduler import Output, Request, Scheduler
from proxy.engine.text import TextStream
from proxy.engine.worker import Worker

GREEDY = Sampling(temperature=0.0)


class Asker:
    """Submits questions to a scheduler and keeps what comes back."""

    def __init__(self, model: Llama, chat: ChatTokenizer, slots: int = 4) -> None:
        self.scheduler = Scheduler(model, slots, 512)
        self.chat = chat
        self.outputs: dict[str, list[Output]] = {}

    def ask(self, name: str, question: str, max_tokens: int = 4, sampling: Sampling = GREEDY, stop: str = "") -> None:
        outputs = self.outputs[name] = []
        prompt = self.chat.prompt([Message("user", question)])
        text = TextStream(self.chat.table, (stop,))
        self.scheduler.submit(
            Request(name, prompt, text, outputs.append, max_tokens, sampling, self.chat.stop_tokens)
        )

    def text(self, name: str) -> str:
        return "".join(output.text for output in self.outputs[name])

    def last(self, name: str) -> Output:
        return self.outputs[name][-1]


@pytest.fixture
def asker(model: Llama, chat: ChatTokenizer) -> Asker:
    return Asker(model, chat)


def test_every_step_is_charged_to_its_requests_in_full(asker: Asker) -> None:
    for i in range(3):
        asker.ask(str(i), "Tell me a story." * (i + 1), max_tokens=3 + i)
    events = list(asker.scheduler.steps())
    assert {event.phase for event in events} == {"prefill", "decode"}
    assert all(sum(event.shares_ns) == event.duration_ns > 0 for event in events)
    charged = [asker.last(name).timings for name in asker.outputs]
    assert sum(t.engine_ns for t in charged if t) == sum(event.duration_ns for event in events)
    assert asker.scheduler.log.totals.busy_ns == sum(event.duration_ns for event in events)
    assert max(len(event.rows) for event in events) == 3  # they did share steps


def test_timings_add_up_to_the_time_that_the_request_took(asker: Asker) -> None:
    asker.ask("first", "Hello?", max_tokens=6)
    asker.scheduler.max_batch = 1
    asker.ask("second", "Hello again?", max_tokens=2)
    events = list(asker.scheduler.steps())
    first, second = asker.last("first").timings, asker.last("second").timings
    assert first and second
    assert second.queue_s > first.prefill_s + first.decode_s  # it waited for all of the first
    assert second.queue_s + second.prefill_s + second.decode_s >= sum(event.duration_s for event in events)
    assert second.engine_s < second.queue_s


def test_a_cancelled_request_frees_its_slot_at_the_next_step(asker: Asker) -> None:
    asker.scheduler.max_batch = 1
    asker.ask("long", "Count to one thousand.", max_tokens=400)
    asker.ask("next", "What is the capital of France?", max_tokens=10)
    for _ in range(3):
        asker.scheduler.step()
    assert asker.scheduler.active == 1 and not asker.outputs["next"]
    asker.scheduler.cancel("long")
    event = asker.scheduler.step()
    assert event and event.rows[0].request_id == "next"
    assert asker.last("long").finish == "cancelled"
    list(asker.scheduler.steps())
    assert asker.text("next") == "The capital of France is Paris." and asker.scheduler.active == 0
    spent = asker.last("long").timings
    assert spent and asker.scheduler.log.totals.cancelled_ns == spent.engine_ns > 0


def test_a_request_cancelled_while_it_waits_never_runs(asker: Asker) -> None:
    asker.ask("gone", "Hello?")
    asker.scheduler.cancel("gone")
    assert list(asker.scheduler.steps()) == []
    assert asker.last("gone").finish == "cancelled" and asker.last("gone").timings.engine_ns == 0  # type: ignore[union-attr]


def test_cancelling_what_is_over_or_unknown_does_nothing(asker: Asker) -> None:
    asker.ask("a", "Hello?", max_tokens=1)
    list(asker.scheduler.steps())
    asker.scheduler.cancel("a")
    asker.scheduler.cancel("never")
    assert list(asker.scheduler.steps()) == [] and len(asker.outputs["a"]) == 1


def test_reusing_a_prefix_gives_the_same_answer_for_less_work(model: Llama, chat: ChatTokenizer) -> None:
    rules = "You answer questions about the weather in the mountains. " * 3
    answers: dict[bool, list[str]] = {}
    computed: dict[bool, int] = {}
    for reuse in (False, True):
        asker = Asker(model, chat)
        asker.scheduler.reuse_prefix = reuse
        for i, question in enumerate(("Is it cold?", "Does it snow?")):
            asker.ask(str(i), rules + question, max_tokens=8)
        list(asker.scheduler.steps())
        answers[reuse] = [asker.text("0"), asker.text("1")]
        computed[reuse] = asker.scheduler.log.totals.prefill_tokens
    timings = asker.last("1").timings
    assert answers[True] == answers[False] and answers[True][0] != answers[True][1]
    assert timings and timings.cached_tokens > 45
    assert computed[False] - computed[True] == timings.cached_tokens


def test_running_answers_go_on_between_the_chunks_of_a_long_prompt(asker: Asker) -> None:
    asker.ask("short", "Count to one hundred.", max_tokens=12)
    asker.scheduler.step()  # its whole prompt, which is more than the chunk of the steps to come
    asker.scheduler.prefill_chunk = 32
    asker.ask("long", "word " * 150, max_tokens=1)
    phases = [event.phase for event in asker.scheduler.steps()]
    assert phases[:7] == ["decode", "prefill"] * 3 + ["decode"]
    assert phases.count("prefill") >= 5


def test_max_batch_is_read_at_every_step(asker: Asker) -> None:
    for name in "abcd":
        asker.ask(name, f"Write about {name}.", max_tokens=4)
    asker.scheduler.max_batch = 2
    sizes = [len(event.rows) for event in asker.scheduler.steps()]
    assert max(sizes) == 2
    for name in "efgh":
        asker.ask(name, f"Write about {name}.", max_tokens=4)
    asker.scheduler.max_batch = 4
    assert max(len(event.rows) for event in asker.scheduler.steps()) == 4


def test_an_answer_ends_at_its_end_token_at_max_tokens_or_at_a_stop_string(asker: Asker) -> None:
    question = "What is the capital of France?"
    asker.ask("whole", question, max_tokens=20)
    asker.ask("cut", question, max_tokens=3)
    asker.ask("stopped", question, max_tokens=20, stop=" is Par")
    list(asker.scheduler.steps())
    assert (asker.text("whole"), asker.last("whole").finish) == ("The capital of France is Paris.", "stop")
    assert (asker.text("cut"), asker.last("cut").finish) == ("The capital of", "length")
    assert (asker.text("stopped"), asker.last("stopped").finish) == ("The capital of France", "stop")
    assert [asker.last(name).completion_tokens for name in ("whole", "cut", "stopped")] == [8, 3, 6]


def test_a_seed_repeats_an_answer_whoever_shares_the_batch(asker: Asker) -> None:
    hot = Sampling(temperature=1.2, top_p=0.95, seed=11)
    asker.ask("alone", "Invent a name.", max_tokens=8, sampling=hot)
    list(asker.scheduler.steps())
    asker.ask("other", "Tell me about bees.", max_tokens=8, sampling=Sampling(temperature=1.2, seed=1))
    asker.ask("again", "Invent a name.", max_tokens=8, sampling=hot)
    asker.ask("else", "Invent a name.", max_tokens=8, sampling=Sampling(temperature=1.2, top_p=0.95, seed=12))
    list(asker.scheduler.steps())
    assert asker.text("again") == asker.text("alone") != asker.text("else")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(asker: Asker) -> None:
    with pytest.raises(EngineError, match="it must have 1 to 511"):
        asker.ask("long", "word " * 600)


def test_an_answer_ends_where_the_slot_is_full(model: Llama, chat: ChatTokenizer) -> None:
    asker = Asker(model, chat)
    asker.scheduler = Scheduler(model, 1, 40)
    asker.ask("a", "Count to one hundred.", max_tokens=400)  # a prompt of 36 tokens
    list(asker.scheduler.steps())
    assert asker.last("a").finish == "length"
    assert len(chat.prompt([Message("user", "Count to one hundred.")])) + asker.last("a").completion_tokens == 40


def test_a_step_that_fails_ends_its_requests_and_not_the_worker(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(asker.scheduler, threads=1, name="test")
    worker.start()
    with monkeypatch.context() as broken:
        broken.setattr(Llama, "decode", lambda *args: 1 / 0)
        submit_and_wait(asker, worker, "a")
    assert asker.last("a").finish == "error" and "division by zero" in asker.last("a").error
    assert worker.failed_steps == 1 and asker.scheduler.active == 0
    submit_and_wait(asker, worker, "b")
    assert asker.last("b").finish == "stop" and "Paris" in asker.text("b")
    worker.close()


def submit_and_wait(asker: Asker, worker: Worker, name: str) -> None:
    done = threading.Event()
    outputs = asker.outputs[name] = []

    def keep(output: Output) -> None:
        outputs.append(output)
        if output.finish:
            done.set()

    prompt = asker.chat.prompt([Message("user", "What is the capital of France?")])
    worker.submit(Request(name, prompt, TextStream(asker.chat.table), keep, 20, GREEDY, asker.chat.stop_tokens))
    assert done.wait(120)
