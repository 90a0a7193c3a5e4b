"""Which deployment serves a request: what a policy may say of it, one record for each strategy that has figures.

A strategy orders the deployments of one model or of several; what it does not need is refused, so that no figure in a
policy is without effect. Without a strategy the least busy deployment of a model serves.
"""
from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from farthing.policy.match import is_glob
from farthing.policy.record import Nusd, Pattern, Record, as_list

Strategy = Literal[
    "fixed", "weighted", "least_in_flight", "latency", "cost", "score", "tier", "requirement", "cascade",
    "prefix_affinity", "sticky", "budget_fallback", "gain",
]  # fmt: skip
Task = Literal[
    "classification", "extraction", "summarisation", "translation", "simple_qa", "reasoning", "creative", "code",
    "tool_use",
]  # fmt: skip


def _one_name(name: str) -> str:
    if is_glob(name):
        raise ValueError(f"{name!r} is a pattern; a route leads to one exact model name")
    return name


ModelName = Annotated[Pattern, BeforeValidator(_one_name)]
ModelNames = Annotated[tuple[ModelName, ...], BeforeValidator(as_list), Field(max_length=10)]
Share = Annotated[float, Field(ge=0, le=1)]
Gain = Annotated[float, Field(ge=-1, le=1)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]


class ScoreWeights(Record):
    """How much each counts in the combined score; only their ratio matters."""

    load: Weight = 1.0
    performance: Weight = 1.0
    cost: Weight = 1.0

    @model_validator(mode="after")
    def _something_counts(self) -> ScoreWeights:
        if not (self.load or self.performance or self.cost):
            raise ValueError("all three are 0; give load, performance or cost a weight")
        return self


class TierRule(Record):
    """A model for some tasks, up to some scores; the first tier that fits serves, the last one takes the rest."""

    model: ModelName
    tasks: Annotated[tuple[Task, ...], BeforeValidator(as_list), Field(max_length=9)] = ()  # none: all
    max_complexity: Share | None = None
    max_creativity: Share | None = None
    max_reasoning: Share | None = None
    max_factual: Share | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # expected length of the answer
    min_confidence: Share = 0.0  # of the task; below it the tier does not fit
    # What the last tier's model gains over this one, as learned from grades; while nobody knows, the tier does not fit.
    max_gain: Gain | None = None

    def max_scores(self) -> dict[str, float]:
        """Return the limits by the names of a judgement's scores."""
        limits = {
            "complexity": self.max_complexity, "creativity": self.max_creativity, "reasoning": self.max_reasoning,
            "factual": self.max_factual, "tokens": self.max_tokens,
        }  # fmt: skip
        return {name: most for name, most in limits.items() if most is not None}


class GainRule(Record):
    """Where the strong one of two models is worth its price, as graded answers taught.

    Grades of calls that were drawn at random are what teaches; without any nothing is learned.
    """

    above: Gain = 0.1  # predicted gain from which on the strong model serves; with tiers their `max_gain` says it
    explore: Share = 0.1  # of the calls, sent to either model by a coin
    grade: Annotated[str, Field(min_length=1, max_length=64)] = "right"  # name of the grades that count


class Pair(NamedTuple):
    """What one gain model is about."""

    weak: str
    strong: str
    grade: str


class Needs(Record):
    """What a request requires; the best deployment that meets all serves, else the one that misses least."""

    max_latency_ms: Annotated[float, Field(gt=0, le=3_600_000)] | None = None  # to the answer's head
    max_cost_nusd: Nusd | None = None  # of this request, as expected
    min_quality: Share | None = None  # as the deployment's setting says
    region: Annotated[str, Field(max_length=256)] = ""  # never given up

    @model_validator(mode="after")
    def _something_is_needed(self) -> Needs:
        if self.max_latency_ms is None and self.max_cost_nusd is None and self.min_quality is None and not self.region:
            raise ValueError("set max_latency_ms, max_cost, min_quality or region")
        return self


class Cascade(Record):
    """Ask the models in their order until an answer is good enough; each is reserved and paid by itself."""

    min_quality: Share = 0.5  # of an answer, as it is judged by what it says of itself
    max_attempts: Annotated[int, Field(ge=2, le=10)] = 2  # models asked; the last one's answer stands


class BudgetSteps(Record):
    """From which share of a budget on each next model serves."""

    at: Annotated[tuple[Share, ...], Field(min_length=1, max_length=9)]  # ascending, one fewer than the models
    budget: Annotated[str, Field(max_length=63)] = ""  # its name; default: the fullest one that holds the request

    @model_validator(mode="after")
    def _ascends(self) -> BudgetSteps:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError("the shares must ascend, such as [0.8, 0.95]")
        return self


class Hedge(Record):
    """Ask a second deployment when the first is slow, before any byte of an answer; the quicker one's answer is used.

    Both are reserved, and each is charged what it did.
    """

    after_ms: Annotated[float, Field(gt=0, le=600_000)] | None = None
    percentile: Annotated[float, Field(ge=50, lt=100)] | None = None  # of the waits of earlier requests
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.1  # of requests that may be asked twice

    @model_validator(mode="after")
    def _one_delay(self) -> Hedge:
        if (self.after_ms is None) == (self.percentile is None):
            raise ValueError("set exactly one of after_ms and percentile")
        return self


# Option -> the strategies that read it
_READ_BY: dict[str, tuple[str, ...]] = {
    "deployment": ("fixed",), "weights": ("weighted",), "score": ("score",), "tiers": ("tier",),
    "need": ("requirement",), "cascade": ("cascade",), "sticky_by": ("sticky",), "budget": ("budget_fallback",),
    "gain": ("gain", "tier", "cascade"),
}  # fmt: skip
_NEEDED = {"fixed": "deployment", "tier": "tiers", "requirement": "need", "budget_fallback": "budget"}
_MANY = ("cascade", "budget_fallback")  # strategies that go from one model to the next


class RouteAction(Record):
    """Send the request to another model, choose among deployments, name models to fall back to, hedge."""

    to: Annotated[ModelName | None, Field(default=None)]  # absent: the model that was asked for
    models: ModelNames = ()  # several models to choose among, instead of `to`
    fallbacks: ModelNames = ()  # in this order, where the others cannot answer
    strategy: Strategy | None = None
    deployment: Annotated[str, Field(max_length=256)] = ""  # fixed: a deployment's name
    weights: dict[Pattern, Weight] = Field(default_factory=dict, max_length=100)  # weighted: by deployment, else model
    score: ScoreWeights | None = None
    tiers: Annotated[tuple[TierRule, ...], Field(max_length=10)] = ()
    need: Needs | None = None
    cascade: Cascade | None = None
    sticky_by: Literal["session", "user", "key", "team"] | None = None  # sticky; default: session
    budget: BudgetSteps | None = None
    gain: GainRule | None = None  # gain, tier, cascade
    hedge: Hedge | None = None

    @model_validator(mode="after")
    def _does_something(self) -> RouteAction:
        if self.to is None and not (self.models or self.fallbacks or self.strategy or self.hedge):
            raise ValueError("set `to`, `models`, `fallbacks`, `strategy` or `hedge`")
        if self.to is not None and self.models:
            raise ValueError("set `to` or `models`, not both")
        if self.models and self.strategy is None:
            raise ValueError("`models` needs a `strategy` that chooses among them")
        return self

    @model_validator(mode="after")
    def _fits_its_strategy(self) -> RouteAction:
        for option, strategies in _READ_BY.items():
            if getattr(self, option) and self.strategy not in strategies:
                raise ValueError(f"`{option}` has a meaning for strategy {' or '.join(strategies)} only")
        needed = _NEEDED.get(self.strategy or "")
        if needed and not getattr(self, needed):
            raise ValueError(f"strategy {self.strategy} needs `{needed}`")
        if self.strategy == "tier" and (self.models or self.to):
            raise ValueError("strategy tier takes its models from `tiers`; leave out `models` and `to`")
        if self.strategy in _MANY and len(self.models) < 2:
            raise ValueError(f"strategy {self.strategy} needs two `models` or more, in their order")
        if self.strategy == "cascade" and self.hedge:
            raise ValueError("a cascade and a hedge cannot be combined; choose one")
        if self.strategy == "gain" and len(self.models) != 2:
            raise ValueError("strategy gain needs two `models`, the weak one first")
        if self.budget is not None and len(self.budget.at) != len(self.models) - 1:
            raise ValueError(f"`budget.at` has {len(self.budget.at)} shares; {len(self.models)} models need one fewer")
        return self

    @model_validator(mode="after")
    def _learns_of_one_pair(self) -> RouteAction:
        limited = [number for number, tier in enumerate(self.tiers) if tier.max_gain is not None]
        if len(limited) > 1 or limited == [len(self.tiers) - 1]:
            raise ValueError("one tier may have `max_gain`, and not the last one, which is what it is compared with")
        if self.strategy == "tier" and self.gain is not None and not limited:
            raise ValueError("`gain` has a meaning for tiers where one of them has `max_gain`")
        if self.strategy == "tier" and self.learning.above != _USUAL_GAIN.above:
            raise ValueError("with tiers `max_gain` says what `gain.above` would; leave that out")
        if self.pair is not None and self.pair.weak == self.pair.strong:
            raise ValueError(f"{self.pair.weak!r} is compared with itself; name two models")
        return self

    @cached_property
    def pair(self) -> Pair | None:
        """The two models whose difference decides, None where nothing is learned."""
        grade = (self.gain or _USUAL_GAIN).grade
        if self.strategy == "gain":
            return Pair(self.models[0], self.models[1], grade)
        if self.strategy == "cascade" and self.gain is not None:
            last = min(len(self.models), (self.cascade or Cascade()).max_attempts) - 1
            return Pair(self.models[0], self.models[last], grade)
        weak = next((tier.model for tier in self.tiers if tier.max_gain is not None), "")
        return Pair(weak, self.tiers[-1].model, grade) if weak else None

    @property
    def learning(self) -> GainRule:
        """How the pair is told apart."""
        return self.gain or _USUAL_GAIN


_USUAL_GAIN = GainRule()
