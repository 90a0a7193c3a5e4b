"""`farthing.cached_tool` and `farthing.cached_component`: what an application need not do twice, a span for each call.

A call that is answered from the cache is a span with the time, and where it is known the money, that it saved; so is
one that is not, so that a hit rate can be told. Nothing here raises into the application but its own function.
"""
from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from time import perf_counter
from typing import Any, Literal, ParamSpec, TypeVar, cast

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from farthing import semconv
from farthing.app_cache import AppCache, Entry, Outcome
from farthing.app_cache_key import NoKeyError, cache_key
from farthing.app_flights import Flight, Flights, wait, wait_async
from farthing.errors import SettingsError
from farthing.money import nusd_from_usd
from farthing.tags import current_tags

P = ParamSpec("P")
R = TypeVar("R")
Cacheable = bool | Callable[[Any], bool]

MAX_BYTES = 16 * 1024 * 1024  # of results that one function may keep

log = logging.getLogger("farthing")
_tracer = trace.get_tracer("farthing.cached")


@dataclass(frozen=True)
class Rule:
    """How the results of one function are kept."""

    level: Literal["tool", "component"]
    name: str
    ttl_s: float
    per: tuple[str, ...]  # tags that part results: each value of them has its own
    ignore: frozenset[str]  # arguments that do not decide the result
    cacheable: Cacheable
    cost_nusd: int | None
    max_bytes: int


def cached_tool(
    *, ttl_s: float = 300.0, name: str = "", per: str | Iterable[str] = (), ignore: str | Iterable[str] = (),
    cacheable: Cacheable = True, cost_usd: str | int | Decimal | None = None, max_bytes: int = MAX_BYTES,
) -> Callable[[Callable[P, R]], Callable[P, R]]:  # fmt: skip
    """Keep the results of a tool: a function, or a coroutine function, whose arguments decide its result.

    Args:
        ttl_s: seconds that a result may be used again.
        name: what the tool is called in spans; default: the function's own name.
        per: tags (see `farthing.tags`) that part results, such as `per=("tenant", "user")` where a tool reads what
            belongs to whom; a call without one of these tags in force is not cached.
        ignore: arguments that do not decide the result, such as a client or `self`.
        cacheable: False for a tool with effects, which is recorded and never cached; or a function of a result that
            says whether to keep it.
        cost_usd: what one call costs, where it costs something, for example "0.002".
        max_bytes: of results kept in this process, pickled; those used longest ago make room.

    The decorated function has two more attributes: `cache_counts()` and `cache_clear()`. A result that cannot be
    pickled, and a call with arguments that are no plain values, is not cached and counted as skipped. Errors are never
    kept. Calls for the same thing at the same time are made once.

    Raises:
        SettingsError: a value cannot be used, or what is decorated is a generator.
    """
    return _decorator("tool", ttl_s, name, per, ignore, cacheable, cost_usd, max_bytes)


def cached_component(
    *, ttl_s: float = 300.0, name: str = "", per: str | Iterable[str] = (), ignore: str | Iterable[str] = (),
    cacheable: Cacheable = True, cost_usd: str | int | Decimal | None = None, max_bytes: int = MAX_BYTES,
) -> Callable[[Callable[P, R]], Callable[P, R]]:  # fmt: skip
    """Keep a component of prompts, such as a retrieved context or a part that is dear to build; as `cached_tool`."""
    return _decorator("component", ttl_s, name, per, ignore, cacheable, cost_usd, max_bytes)


def _decorator(
    level: Literal["tool", "component"], ttl_s: float, name: str, per: str | Iterable[str],
    ignore: str | Iterable[str], cacheable: Cacheable, cost_usd: str | int | Decimal | None, max_bytes: int,
) -> Callable[[Callable[P, R]], Callable[P, R]]:  # fmt: skip
    if not ttl_s > 0 or max_bytes <= 0:
        raise SettingsError(f"ttl_s={ttl_s!r}, max_bytes={max_bytes!r}: allowed are values above 0")
    try:
        cost = None if cost_usd is None else nusd_from_usd(cost_usd)
    except ValueError as error:
        raise SettingsError(f"cost_usd: {error}") from None
    parts, ignored = _names(per), frozenset(_names(ignore))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        named = name or getattr(function, "__name__", "")
        return _wrapped(function, Rule(level, named, ttl_s, parts, ignored, cacheable, cost, max_bytes))

    return decorate


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _wrapped(function: Callable[P, R], rule: Rule) -> Callable[P, R]:
    unknown = rule.ignore - inspect.signature(function).parameters.keys()
    if unknown:
        raise SettingsError(f"ignore={sorted(unknown)}: {rule.name} has no such argument")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SettingsError(f"{function!r} is a generator, whose results come one by one; cache what it is made of")
    calls = _Calls(function, rule)

    @wraps(function)
    async def later(*args: Any, **kwargs: Any) -> Any:
        return await calls.make_async(args, kwargs)

    @wraps(function)
    def at_once(*args: Any, **kwargs: Any) -> Any:
        return calls.make(args, kwargs)

    wrapped = later if inspect.iscoroutinefunction(function) else at_once
    for attribute, value in (("cache_counts", calls.cache.counts), ("cache_clear", calls.cache.clear)):
        setattr(wrapped, attribute, value)
    return cast("Callable[P, R]", wrapped)


class _Calls:
    """The calls of one function."""

    def __init__(self, function: Callable[..., Any], rule: Rule) -> None:
        self._function = function
        self._rule = rule
        self._signature = inspect.signature(function)
        self._flights = Flights()
        self._title = f"execute_tool {rule.name}" if rule.level == "tool" else f"component {rule.name}"
        self._attributes = {semconv.CACHE_LEVEL: rule.level, semconv.CACHE_NAME: rule.name}
        if rule.level == "tool":
            self._attributes |= {semconv.OPERATION_NAME: "execute_tool", "gen_ai.tool.name": rule.name}
        self.cache = AppCache(rule.max_bytes)

    def make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = self._key(args, kwargs)
        if key is None:
            return self._work(args, kwargs, None, None)
        if (found := self._found(key)) is not None:
            return found[0]
        flight, is_ours = self._flights.join(key, threading.get_ident(), threading.Event())
        if not is_ours:
            found = self._answer(wait(flight), "coalesced") if flight else None
            return found[0] if found else self._work(args, kwargs, key, None)
        assert flight is not None
        try:  # another flight may have landed since
            found = self._found(key)
            return found[0] if found else self._work(args, kwargs, key, flight)
        finally:
            self._flights.land(key, flight)

    async def make_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = self._key(args, kwargs)
        if key is None:
            return await self._work_async(args, kwargs, None, None)
        if (found := self._found(key)) is not None:
            return found[0]
        place = (id(asyncio.get_running_loop()), key)
        flight, is_ours = self._flights.join(place, asyncio.current_task(), asyncio.Event())
        if not is_ours:
            found = self._answer(await wait_async(flight), "coalesced") if flight else None
            return found[0] if found else await self._work_async(args, kwargs, key, None)
        assert flight is not None
        try:  # another flight may have landed since
            found = self._found(key)
            return found[0] if found else await self._work_async(args, kwargs, key, flight)
        finally:
            self._flights.land(place, flight)

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        """Return the key of a call, None where it is not to be cached."""
        rule, found = self._rule, current_tags()
        tags: Mapping[str, str] = found.values if found else {}
        if rule.cacheable is False or any(name not in tags for name in rule.per):
            return None
        try:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = {name: value for name, value in bound.arguments.items() if name not in rule.ignore}
            return cache_key([tags[name] for name in rule.per], arguments)
        except (NoKeyError, TypeError):  # arguments that do not fit are the function's own to refuse
            return None
        except Exception:
            log.debug("farthing: %s has no key", rule.name, exc_info=True)
            return None

    def _found(self, key: bytes) -> tuple[Any] | None:
        return self._answer(self.cache.get(key), "hit")

    def _answer(self, entry: Entry | None, outcome: Outcome) -> tuple[Any] | None:
        """Return a kept result and record that it was used; None where there is none."""
        if entry is None:
            return None
        try:
            value = entry.value()
        except Exception:
            log.debug("farthing: a result of %s cannot be read", self._rule.name, exc_info=True)
            return None
        self.cache.count(outcome)
        span = _tracer.start_span(self._title, attributes=self._attributes)
        if span.is_recording():
            saved: dict[str, str | int | float] = {semconv.CACHE_SAVED_SECONDS: entry.seconds}
            if entry.cost_nusd is not None:
                saved[semconv.CACHE_SAVED_NUSD] = entry.cost_nusd
            span.set_attributes(self._told(outcome, entry) | saved)
        span.end()
        return (value,)

    def _work(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], key: bytes | None, flight: Flight | None
    ) -> Any:
        with self._recorded() as span:
            started = perf_counter()
            value = self._function(*args, **kwargs)
            self._keep(key, value, perf_counter() - started, flight, span)
        return value

    async def _work_async(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], key: bytes | None, flight: Flight | None
    ) -> Any:
        with self._recorded() as span:
            started = perf_counter()
            value = await self._function(*args, **kwargs)
            self._keep(key, value, perf_counter() - started, flight, span)
        return value

    @contextmanager
    def _recorded(self) -> Generator[Span]:
        """Hold a span around the work itself; calls of models inside of it are below it."""
        span = _tracer.start_span(self._title, attributes=self._attributes)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as error:
            self.cache.count("miss")
            span.set_attributes({semconv.CACHE_OUTCOME: "miss", semconv.ERROR_TYPE: type(error).__name__})
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()

    def _keep(self, key: bytes | None, value: Any, seconds: float, flight: Flight | None, span: Span) -> None:
        """Keep a result where it may be kept, and hand it to those who wait."""
        entry, evicted = None, 0
        if key is not None and self._is_kept(value):
            entry = self.cache.made(value, seconds, self._rule.cost_nusd, self._rule.ttl_s)
        if entry is not None and key is not None:
            evicted = self.cache.put(key, entry)
        if flight is not None:
            flight.entry = entry
        outcome: Outcome = "miss" if entry is not None else "skipped"
        self.cache.count(outcome)
        span.set_attributes(self._told(outcome, entry) | ({semconv.CACHE_EVICTED: evicted} if evicted else {}))

    def _is_kept(self, value: Any) -> bool:
        if isinstance(self._rule.cacheable, bool):
            return self._rule.cacheable
        try:
            return bool(self._rule.cacheable(value))
        except Exception:
            log.warning("farthing: `cacheable` of %s failed; its result is not kept", self._rule.name, exc_info=True)
            return False

    def _told(self, outcome: Outcome, entry: Entry | None) -> dict[str, str | int | float]:
        told: dict[str, str | int | float] = {
            semconv.CACHE_OUTCOME: outcome, semconv.CACHE_HELD_BYTES: self.cache.size,
        }  # fmt: skip
        return told | {semconv.CACHE_BYTES: len(entry.body)} if entry is not None else told
