"""Runs one model's scheduler on a thread of its own, so that torch never holds up the event loop."""
from __future__ import annotations

import logging
import threading
import time

import torch

from proxy.engine.chat import ChatTokenizer
from proxy.engine.sample import Sampling
from proxy.engine.scheduler import Request, Scheduler
from proxy.engine.steps import StepLog
from proxy.engine.text import TextStream

log = logging.getLogger(__name__)


class Worker:
    """A thread that steps a scheduler whenever there is work."""

    def __init__(self, scheduler: Scheduler, threads: int, name: str) -> None:
        self.scheduler = scheduler
        self.warmup_ns = 0
        self.failed_steps = 0
        self.ready_ns = 0  # time.perf_counter_ns() when it began to take requests
        self._threads = max(1, threads)
        self._work = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    def start(self) -> None:
        """Begin to take requests."""
        self.ready_ns = time.perf_counter_ns()
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue `request`.

        Raises:
            EngineError: its prompt does not fit.
        """
        self.scheduler.submit(request)
        self._work.set()

    def cancel(self, request_id: str) -> None:
        """End a request at the next step."""
        self.scheduler.cancel(request_id)
        self._work.set()

    def close(self) -> None:
        """End every request, then the thread."""
        self._is_closing = True
        self._work.set()
        if self._thread.is_alive():
            self._thread.join()
        self.scheduler.fail_all("the engine is shutting down")

    def idle_ns(self) -> int:
        """Return how long no step ran since the worker was ready."""
        return max(0, time.perf_counter_ns() - self.ready_ns - self.scheduler.log.totals.busy_ns)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while not self._is_closing:
            if not self.scheduler.has_work:
                self._work.wait()
                self._work.clear()
                continue
            self._step()

    def _step(self) -> None:
        try:
            self.scheduler.step()
        except Exception as error:  # out of memory, a CUDA fault: the requests fail, the server must not
            self.failed_steps += 1
            log.exception("an engine step failed; its requests are ended with an error")
            self.scheduler.fail_all(f"the engine failed: {error}")


def warm_up(worker: Worker, chat: ChatTokenizer) -> None:
    """Run a short request before the worker starts, so that no client pays for what torch sets up once."""
    started_ns = time.perf_counter_ns()
    scheduler = worker.scheduler
    prompt = chat.prompt(())
    text = TextStream(chat.table)
    scheduler.submit(Request("warm-up", prompt, text, lambda output: None, max_tokens=2, sampling=Sampling(0.0)))
    for _ in scheduler.steps():
        pass
    scheduler.log = StepLog()
    worker.warmup_ns = time.perf_counter_ns() - started_ns
