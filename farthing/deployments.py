"""The deployments of the settings, each under the name that policies and rows have for it."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from farthing.errors import SettingsError
from farthing.settings import Deployment


def named(deployments: Iterable[Deployment]) -> list[Deployment]:
    """Return deployments, each with a name: its own, else its model and its number among those of the model.

    Raises:
        SettingsError: two have one name, or a figure of one is none that means anything.
    """
    numbers: Counter[str] = Counter()
    found: dict[str, Deployment] = {}
    for deployment in deployments:
        numbers[deployment.model] += 1
        name = deployment.name or f"{deployment.model}/{numbers[deployment.model]}"
        if name in found:
            raise SettingsError(f"deployments: two are called {name!r}; give one of them another `name`")
        if not 0 <= deployment.quality <= 1:
            raise SettingsError(f"deployment {name}: quality = {deployment.quality:g}; allowed is 0 to 1")
        found[name] = replace(deployment, name=name)
    return list(found.values())
