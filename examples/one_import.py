"""An ordinary application of OpenAI's client; one import makes Farthing see its calls.

Run it with `OPENAI_API_KEY` set, or against Farthing's own proxy and bundled model:

    farthing up &
    OPENAI_BASE_URL=http://127.0.0.1:7302/v1 OPENAI_API_KEY=unused python examples/one_import.py smollm2-135m
"""
from __future__ import annotations

import sys

from openai import OpenAI

import farthing.auto  # noqa: F401 - the only change


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "gpt-5-mini"
    stream = OpenAI().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is a farthing?"}],
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
