"""`POST /v1/grades`: how good an answer was, said by whoever asked for it; a span beside the call's own.

Whether there was such a call is found out where the rows lie: a grade of an unknown one counts nowhere.
"""
from __future__ import annotations

import time
from typing import Annotated

import msgspec

from farthing import otlp, semconv
from proxy.api_error import ApiError
from proxy.http import JSON, refuse_too_large
from proxy.http_request import Request
from proxy.identity import random_bytes
from proxy.keys import Caller
from proxy.record import Recorder
from proxy.routes import Routes

_MAX_BYTES = 16 * 1024
_Id = Annotated[str, msgspec.Meta(max_length=256)]


class Grade(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends; one of the two ids names the call."""

    score: Annotated[float, msgspec.Meta(ge=0, le=1)]  # 0 wrong, 1 right
    request_id: _Id = ""  # the answer's header x-farthing-request-id
    response_id: _Id = ""  # the answer's own id
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "right"  # what is graded; policies name it


class Grades:
    """The route."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def register(self, routes: Routes) -> None:
        routes.free("POST", "/v1/grades", "grades", self._take)

    async def _take(self, request: Request, caller: Caller) -> None:
        refuse_too_large(request, _MAX_BYTES)
        grade = _read(request.body)
        self._recorder.add(_span(grade, caller))
        request.answer(202, msgspec.json.encode({"object": "grade", "name": grade.name, "score": grade.score}), JSON)


def _read(body: bytes) -> Grade:
    try:
        grade = msgspec.json.decode(body, type=Grade)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        allowed = "send {request_id or response_id, score from 0 to 1, name}"
        raise ApiError(400, "invalid_grade", f"not a grade: {error}; {allowed}") from None
    if not (grade.request_id or grade.response_id):
        message = "say which call: request_id (the header x-farthing-request-id) or response_id (the answer's id)"
        raise ApiError(400, "invalid_grade", message, param="request_id")
    return grade


def _span(grade: Grade, caller: Caller) -> bytes:
    given = (
        (semconv.REQUEST_ID, grade.request_id), (semconv.RESPONSE_ID, grade.response_id), (semconv.KEY, caller.key),
        (semconv.EVALUATION_NAME, grade.name), (semconv.TEAM, caller.team),
    )  # fmt: skip
    values = [(name, value) for name, value in given if value]
    attributes = otlp.attributes([*values, (semconv.EVALUATION_SCORE, grade.score)])
    now = time.time_ns()
    kind = otlp.KIND_INTERNAL
    return otlp.span(random_bytes(16), random_bytes(8), b"", semconv.EVALUATION, (now, now), attributes, kind)
