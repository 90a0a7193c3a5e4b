"""What a policy may say about the tokens of a call: how many go in, how many come out, and what is left out.

Input is counted by an estimate, since a proxy has no tokenizer of its upstream's; `docs/tokens.md` says how good it is.
"""
from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from farthing.policy.record import Record

Tokens = Annotated[int, Field(gt=0, le=100_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Ending = Annotated[str, StringConstraints(max_length=1000)]
Literally = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class Summary(Record):
    """Have a model of this proxy sum up what was cut; a call of its own, held, charged and recorded like any other."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]  # served over OpenAI's API
    max_tokens: Tokens = 200  # of the summary; taken out of the budget of what is kept
    timeout_s: float = Field(default=10.0, gt=0, le=600)  # without a summary by then the call goes on without


class HistoryRule(Record):
    """Keep the conversation within a budget; system messages and the last turn are always kept."""

    max_tokens: Tokens  # of all turns that are sent, those that are always kept included
    relevance: Share = 0.5  # weight of the words shared with the last turn; recency, role and brevity have the rest
    summary: Summary | None = None


class CompressRule(Record):
    """Leave out what says nothing; code, JSON, tool calls and their results stay as they are."""

    whitespace: bool = True  # trailing blanks, runs of blanks within a line, more than one empty line
    phrases: Annotated[tuple[Literally, ...], Field(max_length=100)] = ()  # boilerplate, taken out wherever it stands


class RetrievalRule(Record):
    """Cap what was retrieved: passages between two markers, those of the newest message first, in their order."""

    # Begin and end; an empty end: up to the next begin, or to the end of the text that the passage stands in.
    markers: Annotated[tuple[tuple[Literally, Ending], ...], Field(min_length=1, max_length=20)] = (
        ("<document", "</document>"), ("<passage", "</passage>"), ("<context", "</context>"),
    )  # fmt: skip
    max_passages: int | None = Field(default=None, ge=0)
    max_characters: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _caps_something(self) -> RetrievalRule:
        if self.max_passages is None and self.max_characters is None:
            raise ValueError("set max_passages, max_characters or both")
        return self


class TokensAction(Record):
    """Limit what is sent and what may be answered."""

    max_input: Tokens | None = None  # estimated tokens of the whole request
    on_long_input: Literal["refuse", "trim"] = "refuse"  # trim: leave out history, and refuse where that is not enough
    max_output: Tokens | None = None  # of each choice; also set where the request names no limit
    history: HistoryRule | None = None
    compress: CompressRule | None = None
    retrieval: RetrievalRule | None = None

    @model_validator(mode="after")
    def _does_something(self) -> TokensAction:
        if not (self.max_input or self.max_output or self.history or self.compress or self.retrieval):
            raise ValueError("set at least one of max_input, max_output, history, compress and retrieval")
        return self
