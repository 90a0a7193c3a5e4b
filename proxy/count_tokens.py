"""`POST /v1/messages/count_tokens`: passed through to Anthropic, which bills nothing for it, so nothing is held.

It is the one upstream request that no `Exchange` makes: it asks a path of its own, and can never become a call.
"""
from __future__ import annotations

import msgspec

from farthing.errors import UpstreamError
from farthing.settings import Settings
from proxy.api_error import ApiError
from proxy.dispatch import Deployments
from proxy.formats.messages import Messages
from proxy.http import JSON, deadline_s, passed_on, refuse_too_large
from proxy.http_request import Request
from proxy.keys import Caller
from proxy.request import read_fields
from proxy.routes import Routes
from proxy.upstream import Client
from proxy.within import Within

_PATH = "messages/count_tokens"
_ANSWER_BYTES = 1024 * 1024


class _Request(msgspec.Struct):
    model: str


class CountTokens:
    """The route."""

    def __init__(self, settings: Settings, client: Client, deployments: Deployments) -> None:
        self._max_bytes, self._most_s = settings.max_request_bytes, settings.request_timeout_s
        self._client = client
        self._deployments = deployments

    def register(self, routes: Routes) -> None:
        routes.free("POST", f"/v1/{_PATH}", "messages", self._count, Messages())

    async def _count(self, request: Request, caller: Caller) -> None:
        refuse_too_large(request, self._max_bytes)
        limit_s = deadline_s(request.headers, self._most_s)
        raw, _, asked = read_fields(request.body, _Request, {"model"}, "a token count")
        caller.check_model(asked.model)
        target = self._deployments.candidates(asked.model, "anthropic")[0]
        deployment, body = target.deployment, request.body
        name = deployment.upstream_model or deployment.model
        if name != asked.model:
            body = msgspec.json.encode({**raw, "model": name})
        headers = [("content-type", "application/json"), *passed_on(request.headers), *target.headers]
        try:
            with Within(limit_s):
                url = f"{deployment.url}/{_PATH}"
                response = await self._client.request("POST", url, body, headers, target.timeouts)
                try:
                    answer = await response.read(_ANSWER_BYTES)
                finally:
                    response.close()
        except TimeoutError:
            raise ApiError(504, "deadline_exceeded", f"no count within {limit_s:g} s", retry_after_s=1) from None
        except UpstreamError as error:
            raise ApiError(502, "upstream_error", f"the model's server failed: {error}", retry_after_s=1) from None
        if response.status in (401, 403):  # it is this proxy's key that was refused, and the answer may quote it
            raise ApiError(502, "upstream_error", "the model's server refused this proxy's key; tell its operator")
        if not (response.status == 200 or 400 <= response.status <= 599):
            raise ApiError(502, "upstream_error", f"the model's server answered {response.status}")
        request.answer(response.status, answer, response.headers.get(b"content-type", JSON))
