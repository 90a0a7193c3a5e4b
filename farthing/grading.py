"""`farthing.grade`: how good an answer was, told by the application that can tell; a span that names the call.

What is graded teaches routers which prompts need a stronger model.
"""
from __future__ import annotations

from opentelemetry import trace

from farthing import semconv
from farthing.errors import SettingsError

_tracer = trace.get_tracer("farthing.grading")


def grade(score: float, *, response_id: str = "", request_id: str = "", name: str = "right") -> None:
    """Grade the answer of one model call; returns at once, as every span does.

    Args:
        score: from 0, wrong, to 1, right.
        response_id: the answer's own id, such as `answer.id`.
        request_id: the answer's header `x-farthing-request-id`; one of the two is needed.
        name: what is graded; a policy's `gain.grade` names those that it learns from.

    Raises:
        SettingsError: the score is not from 0 to 1, or no call is named.
    """
    if not 0 <= score <= 1:
        raise SettingsError(f"score={score!r}: allowed is a number from 0, wrong, to 1, right")
    if not (response_id or request_id):
        raise SettingsError("grade(): say which call, by response_id (answer.id) or by request_id")
    ids = {semconv.RESPONSE_ID: response_id, semconv.REQUEST_ID: request_id}
    told = {semconv.EVALUATION_NAME: name, semconv.EVALUATION_SCORE: float(score)}
    _tracer.start_span(semconv.EVALUATION, attributes={key: value for key, value in ids.items() if value} | told).end()
