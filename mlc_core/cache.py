"""The folder for what can be made again, and how files are written so that none is ever half there."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from mlc_core.errors import BadData


def cache_dir() -> Path:
    """``$MLC_CACHE``, or the user's cache folder (XDG base directory specification); made if absent.

    Raises
    ------
    BadData
        Where it cannot be made.
    """
    chosen = os.environ.get("MLC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    path = Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "mlc-search"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(
            f"The cache folder {path} cannot be made: {error.strerror}. Set MLC_CACHE to a folder one can write to."
        ) from None
    return path


def write_atomically(path: Path, *content: bytes | memoryview, mode: int = 0o600, previous: Path | None = None) -> None:
    """Write so that a reader, also after a crash or a power cut, sees the old file or the new one, whole.

    Parameters
    ----------
    content : bytes or memoryview
        One after the other.
    mode : int
        Who may read and write it; by default its owner alone.
    previous : Path, optional
        In the same folder: where the old file goes once the new one is whole on disk. For a moment only it is there.

    Raises
    ------
    OSError
        Where the disk is full or the folder cannot be written; the old file is then untouched.
    """
    temporary = NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115 - renamed
    try:
        with temporary:
            for part in content:
                temporary.write(part)
            os.fchmod(temporary.fileno(), mode)
            temporary.flush()
            os.fsync(temporary.fileno())
        if previous is not None:
            path.replace(previous)
        Path(temporary.name).replace(path)
    except BaseException:
        Path(temporary.name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)
