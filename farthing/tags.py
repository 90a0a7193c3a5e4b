"""Whom a model call is for: team, user, feature, session and any further name, on every span started below.

Tags travel in an OpenTelemetry context value of our own and not in baggage: baggage would be sent to third parties by
every HTTP instrumentation that the application has.
"""
from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, ParamSpec, Self, TypeVar, cast
from urllib.parse import quote

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from farthing.errors import SettingsError
from farthing.semconv import tag_attribute

MAX_VALUE_CHARS = 256
MAX_HEADER_CHARS = 8000  # servers commonly refuse a header line of 8 KiB or 16 KiB

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY = otel_context.create_key("farthing.tags")

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class TagSet:
    """The tags that are in force at one place of the program."""

    values: Mapping[str, str]

    @cached_property
    def attributes(self) -> dict[str, str]:
        """The span attributes that carry these tags."""
        return {tag_attribute(name): value for name, value in self.values.items()}

    @cached_property
    def header(self) -> str:
        """The value of `semconv.HEADER_TAGS`; tags past `MAX_HEADER_CHARS` are left out, and stay on the span."""
        text = ""
        for name, value in self.values.items():
            longer = f"{text},{name}={quote(value, safe='')}".lstrip(",")
            if len(longer) <= MAX_HEADER_CHARS:
                text = longer
        return text


def current_tags(context: Context | None = None) -> TagSet | None:
    """Return the tags in force in `context`, else those of the current context."""
    found = otel_context.get_value(_KEY, context)
    if found is None and context is not None:
        found = otel_context.get_value(_KEY)
    return cast("TagSet | None", found)


class Tags:
    """What `farthing.tags` returns: a context manager, sync and async, and a decorator."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self._tokens: list[Token[Context]] = []

    def __enter__(self) -> Self:
        outer = current_tags()
        merged = TagSet({**outer.values, **self._given} if outer else self._given)
        self._tokens.append(otel_context.attach(otel_context.set_value(_KEY, merged)))
        return self

    def __exit__(self, *_: object) -> None:
        otel_context.detach(self._tokens.pop())

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function` with these tags in force during each call of it.

        Raises:
            SettingsError: `function` is a generator; its body runs after the call, so tag inside it.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise SettingsError(f"tags cannot decorate the generator {function!r}: write `with tags(...)` inside it")
        if inspect.iscoroutinefunction(function):
            return cast("Callable[P, R]", self._around_coroutine(function))
        given = self._given

        @wraps(function)
        def tagged(*args: P.args, **kwargs: P.kwargs) -> R:
            with Tags(given):
                return function(*args, **kwargs)

        return tagged

    def _around_coroutine(self, function: Callable[P, Any]) -> Callable[P, Any]:
        given = self._given

        @wraps(function)
        async def tagged(*args: P.args, **kwargs: P.kwargs) -> object:
            with Tags(given):
                return await function(*args, **kwargs)

        return tagged


def tags(
    *,
    team: object = None,
    user: object = None,
    feature: object = None,
    session: object = None,
    **more: object,
) -> Tags:
    """Tag every span started inside a `with` block, or inside a decorated function, and below it.

    Blocks nest; an inner tag of the same name wins. A value is turned into text of at most 256 characters; `None` is
    skipped. Like every context variable, tags reach tasks and `asyncio.to_thread`, and no thread that the
    application starts itself.

    Raises:
        SettingsError: a name is not made of 1 to 64 of the characters A-Z a-z 0-9 _ . -
    """
    named = {"team": team, "user": user, "feature": feature, "session": session, **more}
    for name in more:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"tag name {name!r}: allowed are 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    return Tags({name: _text(value) for name, value in named.items() if value is not None})


def _text(value: object) -> str:
    try:
        return str(value)[:MAX_VALUE_CHARS]
    except Exception:  # noqa: BLE001 - a __str__ of the application's that fails must not stop its model call
        return f"<unprintable {type(value).__name__}>"
