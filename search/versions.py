"""What decides the bits of a trial beside its parameters and data: the versions of the programs that train it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

_PARTS: Final = ("torch", "torchvision", "optuna")


@cache
def code_version() -> str:
    """Spell the versions of mlc-search, by its sources too, and of what it trains and searches with.

    Of torch only the public version: builds for CPU and CUDA may work on one study.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(file for part in ("mlc_core", "search") for file in (package / part).rglob("*.py")):
        digest.update(file.read_bytes())
    parts = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in _PARTS)
    return f"mlc-search {version('mlc-search')} ({digest.hexdigest()[:8]}), {parts}"
