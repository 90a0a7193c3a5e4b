"""Fuzzes the receive path with coverage: `make fuzz`, or `python -m tests.fuzz.run [SECONDS] [libFuzzer options]`.

Needs the extra `fuzz` (atheris). What breaks the oracle is left as a file in `.fuzz`; give it as the only option to see
it again, and put it into `FOUND` of test_oracle.py with its repair.
"""
from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["collector"]):
    from tests.fuzz.mutate import rearranged
    from tests.fuzz.oracle import TOKENS, Oracle, seeds

FIXTURES = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "otlp"


def main() -> None:
    """Run until the time is over or something is found."""
    seconds = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1].isdecimal() else "600"
    options = [one for one in sys.argv[1:] if not one.isdecimal()]
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    for number, one in enumerate(seeds(FIXTURES)):
        (corpus / f"seed-{number:02}").write_bytes(one)
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in one) + '"\n' for one in TOKENS))
    oracle, became = Oracle(folder), Counter[str]()

    def one_input(fuzzed: bytes) -> None:
        became[oracle.check(fuzzed)] += 1
        if became.total() % 20_000 == 0:
            print("became", dict(became), flush=True)

    def change(fuzzed: bytes, max_size: int, seed: int) -> bytes:
        if not fuzzed or fuzzed[0] % 4 > 1 or seed % 3 == 0:
            return atheris.Mutate(fuzzed, max_size)
        return (fuzzed[:1] + rearranged(random.Random(seed), fuzzed[1:]))[:max_size]

    if not options:
        Path(".fuzz").mkdir(exist_ok=True)
        limits = [f"-max_total_time={seconds}", "-max_len=20000", f"-dict={words}", "-artifact_prefix=.fuzz/"]
        options = [*limits, "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one_input, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
