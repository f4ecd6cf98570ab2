"""A small file system of its own for artifacts, to be filled and freed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_BALLAST: Final = "ballast"


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted file system."""

    root: Path

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.root / _BALLAST).open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):  # at a stroke it would fail, as others write at the same time
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        (self.root / _BALLAST).unlink(missing_ok=True)


@contextmanager
def mounted(megabytes: int) -> Iterator[Disk]:
    """Mount it for as long as the context lasts; only root may, elsewhere than in CI the test is skipped."""
    with tempfile.TemporaryDirectory(prefix="mlc-faults-", ignore_cleanup_errors=True) as folder:
        mount = ("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"no file system could be mounted ({done.stderr.strip()})")
        assert done.returncode == 0, done.stderr
        try:
            yield Disk(Path(folder))
        finally:
            subprocess.run(("umount", "--lazy", folder), check=True)
