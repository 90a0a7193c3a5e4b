"""The names that are found in raw bytes are those that a parser finds."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector import pricing
from farthing import otlp, semconv

_PROVIDERS = semconv.ALIASES["provider"]
_MODELS = semconv.ALIASES["request_model"] + semconv.ALIASES["response_model"]
_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1, max_size=30)


@given(st.sampled_from(_PROVIDERS), st.sampled_from(_MODELS), _names, _names, _names)
def test_each_name_is_found_apart(key: str, model_key: str, first: str, second: str, other: str) -> None:
    """A length of 10 reads as the end of a line: no name may stand for another one."""
    seen = pricing._names(_body((key, first), (model_key, first)))
    again = pricing._names(_body((key, first), (model_key, second)))
    assert seen[0] == again[0] and (seen[1] == again[1]) == (first == second)
    assert pricing._names(_body((key, first), (model_key, first), ("server.address", other))) == seen


def test_a_name_of_one_span_does_not_hide_that_of_the_next() -> None:
    spans = [(("gen_ai.system", name), ("gen_ai.request.model", f"{name}-1")) for name in "abcdefghij"]
    providers, models = pricing._names(b"".join(_body(*attributes) for attributes in spans))
    assert (len(providers), len(models)) == (10, 10)


def _body(*attributes: tuple[str, str]) -> bytes:
    span = otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), otlp.attributes(attributes))
    return otlp.traces([("service.name", "shop")], "scope", "1", [span])
