"""The OpenAPI description of the control API, made from its route table, so that it cannot differ from it."""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from farthing.access import GRANTS
from farthing.policy.envelope import json_schema
from policies.access import Route

_SIGNED = ("author", "reason")
# path -> names of its query values; a test holds the paths to be routes
QUERY: dict[str, tuple[str, ...]] = {
    "/v1/document": ("wait",),
    "/v1/apply": ("replace", "dry_run", *_SIGNED),
    "/v1/objects/{kind}/{name}": _SIGNED,
    "/v1/diff": ("from", "to"),
    "/v1/revert": ("version", *_SIGNED),
    "/v1/plan": ("hours", "replace"),
    "/v1/writes": ("limit", "before"),
    "/v1/explain": ("request_id",),
    "/v1/policies/{name}/mode": ("mode", "share", *_SIGNED),
    "/v1/budgets/{name}/top-up": ("amount", *_SIGNED),
    "/v1/budget-events": ("after",),
    "/v1/proposals/{name}/accept": _SIGNED,
    "/v1/pending/{number}/refuse": ("author",),
    "/v1/ledger/settlements": ("since",),
    "/v1/ledger/corrections": ("since",),
    "/v1/ledger/recalls": ("worker", "wait"),
    "/v1/keys/{name}/rotate": ("overlap_s", *_SIGNED),
    "/v1/keys/{name}": _SIGNED,
    "/v1/gains": ("tenant", "weak", "strong", "grade"),
    "/v1/tokens": ("name", "role", "days", *_SIGNED),
    "/v1/tokens/{name}": _SIGNED,
}
_YAML = ("/v1/apply", "/v1/plan")  # their bodies are policy files
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "string"}},
            },
        }
    },
}


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a route table."""
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Farthing control API", "version": "v1"},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR, "PolicyFile": json_schema()},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    error = {"schema": {"$ref": "#/components/schemas/Error"}}
    failed = {"description": "Refused", "content": {"application/json": error}}
    named = re.findall(r"\{(\w+)\}", route.template)
    query = QUERY.get(route.template, ()) if route.method != "GET" or route.template != "/v1/tokens" else ()
    parameters = [_parameter(name, "path") for name in named] + [_parameter(name, "query") for name in query]
    operation: dict[str, Any] = {
        "summary": (route.handler.__doc__ or "").partition("\n")[0],
        "parameters": parameters,
        "responses": {"200": {"description": "Done"}, "default": failed},
        "security": [{"token": []}] if GRANTS[route.needs] else [],
        "x-roles": sorted(GRANTS[route.needs]),
    }
    if route.template in _YAML:
        text = {"schema": {"$ref": "#/components/schemas/PolicyFile"}}
        operation["requestBody"] = {"content": {"application/yaml": text}}
    return operation


def _parameter(name: str, where: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}
