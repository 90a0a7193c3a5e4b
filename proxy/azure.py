"""Azure's way to write OpenAI's API: the deployment stands in the path, the API's version in the query.

Towards us it is another spelling of our own routes, so that no route has a second way in; towards Azure it is a URL.
"""
from __future__ import annotations

import re
from urllib.parse import quote, unquote

import msgspec

from farthing.settings import Deployment
from proxy.http_request import Request

FILES = "/openai/files"
_OURS = "/v1/"
_PREFIX = "/openai/"
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/(.+)")
# What Azure asks of a deployment; all else it asks of the resource
_OF_DEPLOYMENT = frozenset(("chat/completions", "completions", "embeddings"))

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def rewrite(request: Request) -> bool:
    """Have a request in Azure's spelling be one in ours; False = it is in neither.

    The deployment's name is the model's, and stands above what the body says, as it does at Azure.
    """
    if not request.path.startswith(_PREFIX):
        return False
    found = _DEPLOYMENT.fullmatch(request.path)
    if found is None:
        request.path = _OURS + request.path.removeprefix(_PREFIX).removeprefix("v1/")
    else:
        request.path = _OURS + found[2]
        request.body = _named(request.body, unquote(found[1]))
    return True


def _named(body: bytes, model: str) -> bytes:
    """Return a body that names the model; one that is no JSON object is left to be refused by who reads it."""
    name = msgspec.json.encode(model)
    try:
        fields = _decode(body)
        if "model" in fields and msgspec.json.decode(fields["model"]) == model:
            return body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    if "model" not in fields:  # what the client sent stays as it is, byte for byte
        first, _, rest = body.partition(b"{")
        return b'%b{"model":%b%b%b' % (first, name, b"," if fields else b"", rest)
    return msgspec.json.encode({**fields, "model": msgspec.Raw(name)})


def url_of(deployment: Deployment, path: str) -> str:
    """Return where a deployment with an `api_version` takes requests of one API."""
    name = quote(deployment.upstream_model or deployment.model, safe="")
    where = f"deployments/{name}/{path}" if path in _OF_DEPLOYMENT else path
    return f"{deployment.url}/{where}?api-version={quote(deployment.api_version, safe='')}"
