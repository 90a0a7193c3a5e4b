"""proxy/ways.py: a request goes where its deployment is, with its own headers and none of another request's."""
from __future__ import annotations

from farthing.settings import Deployment, Settings
from proxy.dispatch import Deployments, Target
from proxy.ways import Ways

ONE, OTHER = "http://one.test/v1", "http://other.test/v1"


def targets() -> list[Target]:
    return Deployments(Settings(deployments=(Deployment("m", ONE), Deployment("m", OTHER)))).targets


def test_headers_that_a_request_passes_on_are_its_own_whoever_went_the_same_way_before() -> None:
    one, other = targets()
    ways = Ways("messages")
    beta, json_body = ("anthropic-beta", "tools"), ("content-type", "application/json")
    assert ways.to(one, (beta,)) == (f"{ONE}/messages", (json_body, beta))
    assert ways.to(one, ()) == (f"{ONE}/messages", (json_body,))
    assert ways.to(other, ()) == (f"{OTHER}/messages", (json_body,))
    assert ways.to(one, ()) is ways.to(one, ())


def test_versions_that_a_client_makes_up_are_forgotten_again() -> None:
    one, _ = targets()
    ways = Ways("messages")
    first = ways.to(one, ())
    for number in range(1000):
        assert ways.to(one, (("anthropic-beta", f"b{number}"),)).headers[1] == ("anthropic-beta", f"b{number}")
    assert ways.to(one, ()) == first and ways.to(one, ()) is not first
