"""Shows on stderr how far a long piece of work has come: a bar on a terminal, a few plain lines elsewhere."""
from __future__ import annotations

import sys
from typing import TextIO

WIDTH = 30  # characters of the bar


class Progress:
    """One bar, moved by `advance`."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = stream or sys.stderr
        self._shown = -1  # the last tick that was written

    def advance(self, share: float) -> None:
        """Show that `share` (0 to 1) of the work is done; writes only where something visible changes."""
        tty = self._stream.isatty()
        tick = int(share * (WIDTH if tty else 2))
        if tick == self._shown:
            return
        self._shown = tick
        self._stream.write(self._bar(share) if tty else f"{self._what}: {share:.0%}\n")
        self._stream.flush()

    def _bar(self, share: float) -> str:
        full = int(share * WIDTH)
        return f"\r{self._what} [{'=' * full}{' ' * (WIDTH - full)}] {share:4.0%}" + ("\n" if share >= 1 else "")
