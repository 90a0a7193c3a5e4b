"""An ordinary application of several teams: it uses the OpenAI client and knows of Farthing by one import.

    python -m farthing.demo.app calls.jsonl --threads 8

Each line of the file is one call; the last line printed is a JSON object that counts how they ended.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai

import farthing
import farthing.auto  # pyright: ignore[reportUnusedImport]  # this import is the whole instrumentation


def answer(client: openai.OpenAI, call: dict[str, Any]) -> str:
    """Make one call and return the text of the answer."""
    create: Any = client.chat.completions.create  # the calls come from a file, so their types are not known here
    messages: Any = [{"role": "user", "content": call["prompt"]}]
    request: Any = {"model": call["model"], "messages": messages, "max_tokens": call["max_tokens"], "temperature": 0}
    if not call["stream"]:
        return str(create(**request).choices[0].message.content or "")
    with create(**request, stream=True) as events:
        return "".join(event.choices[0].delta.content or "" for event in events if event.choices)


def run(client: openai.OpenAI, call: dict[str, Any]) -> str:
    """Make one call on behalf of its team and user; return how it ended."""
    with farthing.tags(team=call["team"], user=call["user"], feature=call["feature"], session=call["session"]):
        try:
            return "ok" if answer(client, call) else "empty"
        except openai.RateLimitError as error:
            return "refused" if error.code == "budget_exceeded" else "rate_limited"
        except openai.APIError as error:
            sys.stderr.write(f"{call['team']}: {error}\n")
            return "error"


def main() -> None:
    """Make all calls of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", type=Path)
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()
    calls: list[dict[str, Any]] = [json.loads(line) for line in arguments.calls.read_text("utf-8").splitlines()]
    with openai.OpenAI() as client, ThreadPoolExecutor(arguments.threads) as pool:
        ended = Counter(pool.map(partial(run, client), calls))
    farthing.flush()
    sys.stdout.write(json.dumps(ended) + "\n")


if __name__ == "__main__":
    main()
