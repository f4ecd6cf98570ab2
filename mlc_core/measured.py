"""What this machine measured of itself, kept in the cache folder so that it is measured once.

Not here: what is measured (device.py); where the cache folder is (cache.py).
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from mlc_core.cache import cache_dir, write_atomically


def recall(file: str, key: str) -> Any:  # noqa: ANN401 - as it was kept, if nobody wrote to the file
    """Return what was kept under the key, as JSON has it; None where nothing was, or the file is damaged."""
    return _read(file).get(key)


def keep(file: str, key: str, value: object) -> None:
    """Keep it beside what else the file holds; where that cannot be written, the next process measures again."""
    with suppress(OSError):
        write_atomically(cache_dir() / file, json.dumps({**_read(file), key: value}, indent=1).encode())


def _read(file: str) -> dict[str, Any]:
    try:
        read = json.loads((cache_dir() / file).read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
