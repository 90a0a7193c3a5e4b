"""Governs the tokens of a request before anything else looks at it: what is hashed, held and sent is what is left.

The rewritten body is read anew by its own format, so nothing can be held for another request than the one that is sent;
turns that were not touched keep their bytes.
"""
from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from msgspec.structs import replace

from farthing.policy import Policy
from farthing.policy.tokens import TokensAction
from proxy.api_error import ApiError
from proxy.call import Call
from proxy.formats import Format
from proxy.request import Asked
from proxy.tokens.plan import Plan, plan
from proxy.tokens.summary import Summaries, with_summary
from proxy.tokens.turns import SHAPES, Shape

_decode_turns = msgspec.json.Decoder(list[msgspec.Raw]).decode


class TokenControl:
    """Applies token policies; `summaries` writes what a policy wants said of the turns that were left out."""

    def __init__(self) -> None:
        self.cut: Counter[tuple[str, str]] = Counter()  # (policy, kind) -> estimated tokens
        self.summaries: Summaries | None = None  # set once the proxy's routes are there, one of which it asks

    async def govern(self, form: Format, call: Call, asked: Asked) -> Asked:
        """Return the request that is to be sent instead of `asked`.

        Raises:
            ApiError: 400; it is longer than its policy allows, and may not or cannot be trimmed.
        """
        decision, shape = call.decision, SHAPES.get(form.path)
        if decision is None or shape is None:
            return asked
        if (shadow := decision.tokens_shadow) is not None:
            call.cut_shadow = plan(shape, asked.fields, _action(shadow)).cut
            call.cut_shadow.policy = shadow.name
        if decision.tokens is None:
            return asked
        return await self._enforce(form, call, asked, shape, decision.tokens)

    async def _enforce(self, form: Format, call: Call, asked: Asked, shape: Shape, policy: Policy) -> Asked:
        action = _action(policy)
        made = plan(shape, asked.fields, action)
        call.cut, made.cut.policy = made.cut, policy.name
        for kind, tokens in made.cut.kinds.items():
            self.cut[policy.name, kind] += tokens
        if made.cut.is_refused:
            raise _too_long(made, policy, shape)
        if made.left_out and action.history and action.history.summary and self.summaries:
            text = await self.summaries.write(action.history.summary, made.left_out, call.headers)
            with_summary(made, text)
        sent = rewritten(form, asked, shape, made)
        if made.is_limit_missing and action.max_output:
            sent = replace(sent, output_limit=action.max_output)
        call.max_tokens = sent.max_output or sent.output_limit
        return sent


def _action(policy: Policy) -> TokensAction:
    assert policy.action.tokens is not None  # the index holds no other
    return policy.action.tokens


def rewritten(form: Format, asked: Asked, shape: Shape, made: Plan) -> Asked:
    """Return the request with the plan carried out, itself where nothing changes."""
    changes: dict[str, Any] = {**made.head, **made.limits}
    if made.kept is not None or made.edited:
        changes[shape.turns] = _turns(asked, shape, made)
    return form.read(msgspec.json.encode({**asked.raw, **changes})) if changes else asked


def _turns(asked: Asked, shape: Shape, made: Plan) -> Any:
    if not isinstance(asked.fields[shape.turns], list):
        return made.turns[0].value
    came = _decode_turns(asked.raw[shape.turns])
    kept = range(len(came)) if made.kept is None else made.kept
    return [made.turns[index].value if index in made.edited else came[index] for index in kept]


def _too_long(made: Plan, policy: Policy, shape: Shape) -> ApiError:
    action, cut = _action(policy), made.cut
    trimmed = f" after {cut.before - cut.after} were cut" if cut.before > cut.after else ""
    message = (
        f"the request has about {cut.after} input tokens{trimmed}, and the policy {policy.name!r} allows "
        f"{action.max_input}; send less context, or have the policy's max_input raised"
    )
    return ApiError(400, "input_too_long", message, param=shape.turns)
