"""Prepares a folder's images in a process of its own and says how far it is; started to be killed, or raced.

Arguments: the folder, the size, and the number of done images after which the kernel may end the process in the middle
of a write. It says "ready" and waits for a line before it begins.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

from mlc_core.data.listing import Entry, Listing
from mlc_core.data.store import CHUNK, prepare


def everything(root: Path) -> Listing:
    names = sorted(path.name for path in root.iterdir())
    entries = tuple(Entry(path=name, labels=(0,), where=f"labels.csv, row {i}") for i, name in enumerate(names, 2))
    return Listing(root=root, format="csv", classes=("a", "b"), entries=entries)


def die_writing(size: int) -> None:
    """Have the kernel end the process once a file grows beyond one and a half chunks."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it otherwise
    most = 3 * size * size * CHUNK * 3 // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def main(root: Path, size: int, deadly: int | None) -> None:
    def on_progress(done: int, of: int) -> None:
        print(done, of, flush=True)  # noqa: T201 - stdout is where the test listens
        if done == deadly:
            die_writing(size)

    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    prepare(everything(root), size, on_progress=on_progress)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else None)
