"""What a policy cut from a request, in estimated tokens; the span, the rows and a response header are made of it."""
from __future__ import annotations

from dataclasses import dataclass, field

from farthing import semconv

KINDS = ("retrieval", "phrases", "whitespace", "history")  # in the order in which they are cut


@dataclass(slots=True)
class Cut:
    """The tokens of one request before and after; with a shadow policy, as they would have been."""

    policy: str = ""  # name of the one that says what is cut
    before: int = 0  # estimated input tokens as the client sent them
    after: int = 0  # as they were sent on, a summary of what was cut included
    kinds: dict[str, int] = field(default_factory=dict[str, int])  # of KINDS -> tokens cut
    turns: int = 0  # of the history left out
    max_output: int = 0  # the limit that was set, tokens; 0 = the request's own stands
    summary: int = 0  # tokens of the summary of what was cut
    has_no_summary: bool = False  # the policy wants one, and none was to be had
    is_refused: bool = False  # too long, also after what may be cut

    def add(self, kind: str, tokens: int) -> None:
        if tokens > 0:
            self.kinds[kind] = self.kinds.get(kind, 0) + tokens

    @property
    def is_any(self) -> bool:
        return bool(self.kinds or self.max_output or self.turns or self.is_refused)

    @property
    def header(self) -> str:
        """What the response header says: `before=900;after=300;history=600`."""
        values = {"before": self.before, "after": self.after, **self.kinds} if self.before else {}
        if self.max_output:
            values["max_output"] = self.max_output
        if self.summary or self.has_no_summary:
            values["summary"] = self.summary
        return ";".join(f"{name}={value}" for name, value in values.items())


def cut_attributes(cut: Cut | None, is_shadow: bool = False) -> list[tuple[str, int]]:
    """Return what a span says of a cut; nothing where there is none."""
    if cut is None:
        return []
    given = {
        semconv.TOKENS_POLICY_PREFIX + cut.policy: 1,
        semconv.TOKENS_BEFORE: cut.before,
        semconv.TOKENS_AFTER: cut.after,
        **{semconv.TOKENS_CUT_PREFIX + kind: tokens for kind, tokens in cut.kinds.items()},
        semconv.TOKENS_TURNS: cut.turns,
        semconv.TOKENS_MAX_OUTPUT: cut.max_output,
        semconv.TOKENS_SUMMARY: cut.summary,
        semconv.TOKENS_NO_SUMMARY: int(cut.has_no_summary),
        semconv.TOKENS_REFUSED: int(cut.is_refused),
    }
    own, shadow = semconv.TOKENS_PREFIX, semconv.TOKENS_SHADOW_PREFIX
    pairs = [(name, value) for name, value in given.items() if value]
    return [(name.replace(own, shadow), value) for name, value in pairs] if is_shadow else pairs
