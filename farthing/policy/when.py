"""`when` of a policy: a CEL condition over the facts of a request, for what a structured match cannot say.

It is compiled as the document is read and evaluated only where the structured match holds already. The library does
not raise where an evaluation fails, it returns a value of the type ERROR: a condition holds only where it yields the
boolean true, anything else counts as not matched, and failures are counted.
"""
from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from farthing.policy.facts import Facts

TEXTS = ("tenant", "team", "user", "feature", "session", "key", "model")  # and `tags`, a map of texts
MAX_LENGTH = 2000  # characters
_KNOWN = ", ".join((*TEXTS, "tags"))


class When:
    """One compiled condition."""

    __slots__ = ("_boolean", "_expression", "errors", "last_error", "text")

    def __init__(self, text: str, expression: Any, boolean: Any) -> None:
        self.text = text
        self._expression = expression
        self._boolean = boolean
        self.errors = 0  # evaluations that yielded no boolean
        self.last_error = ""

    def __call__(self, facts: Facts) -> bool:
        """Tell whether the condition holds for `facts`."""
        try:
            found = self._expression.eval(data=_bound(facts))
            if found.type() == self._boolean:
                return found.value() is True
            problem = found.value()
        except RuntimeError as error:  # the bound on iterations, which alone is raised
            problem = error
        self.errors += 1
        self.last_error = str(problem)
        return False


def _bound(facts: Facts) -> dict[str, object]:
    return {
        "tenant": facts.tenant,
        "team": facts.team,
        "user": facts.user,
        "feature": facts.feature,
        "session": facts.session,
        "key": facts.key,
        "model": facts.model,
        "tags": facts.tags,
    }


@lru_cache(maxsize=20_000)
def compiled(text: str) -> When:
    """Return the condition that `text` says; equal texts share one.

    Raises:
        ValueError: it is not a CEL expression over the facts that yields true or false, or CEL is not installed.
    """
    cel, environment = _cel()
    try:
        expression = environment.compile(text)
    except RuntimeError as error:
        raise ValueError(f"not a CEL condition: {_reason(error)}; it may use {_KNOWN}") from None
    if expression.return_type() != cel.Type.BOOL:
        raise ValueError(f"yields {expression.return_type().name()}; a condition yields true or false")
    return When(text, expression, cel.Type.BOOL)


@cache
def _cel() -> tuple[Any, Any]:
    try:
        from cel_expr_python import cel  # pyright: ignore[reportMissingTypeStubs] - types its module, not its package
    except ModuleNotFoundError:
        raise ValueError(
            "`when` needs the package cel-expr-python, in the control plane and in every proxy; "
            "run: pip install 'farthing[cel]'"
        ) from None
    texts = dict.fromkeys(TEXTS, cel.Type.STRING)
    tags = cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
    return cel, cel.NewEnv(variables={**texts, "tags": tags})


def _reason(error: RuntimeError) -> str:
    """Return the library's first line without its own prefixes: where, and what is wrong."""
    return str(error).partition("\n")[0].rpartition("<input>:")[2].removesuffix("[INVALID_ARGUMENT]").strip()
