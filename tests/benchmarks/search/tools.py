"""Which tools are compared, and the environment that each is installed into: of its own, never one of the product."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.console import Console

OURS: Final = "mlc-search"
PLAIN: Final = "optuna tpe"  # what the others are measured by
HERE: Final = "here"  # the environment that runs the benchmark
_SURROGATE: Final = ("numpy", "scikit-learn")
# The versions that were compared. Syne Tune has had no MOBSTER, no Hyper-Tune and no promotion since 0.15.
ENVIRONMENTS: Final[Mapping[str, Sequence[str]]] = {
    "optuna": (f"optuna=={version('optuna')}", *_SURROGATE),
    "ray": ("ray[tune]==2.60.0", "hpbandster==0.7.4", "ConfigSpace==1.2.2", *_SURROGATE),
    "syne-tune-legacy": ("syne-tune[gpsearchers,blackbox-repository]==0.14.2", *_SURROGATE),
    "syne-tune": ("syne-tune==0.16.0", "huggingface_hub", *_SURROGATE),
    "ax": ("torch==2.13.0", "ax-platform==1.3.1", *_SURROGATE),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tool of the comparison."""

    environment: str  # a key of ENVIRONMENTS, or HERE
    module: str  # below tests.benchmarks.search, with a `main` that knows the tool by its name
    conditional: bool = True  # whether it is given the space's branches as such, or every parameter always


TOOLS: Final[Mapping[str, Entry]] = {
    OURS: Entry(HERE, "ours"),
    "random": Entry(HERE, "peers.random_search"),
    PLAIN: Entry("optuna", "peers.optuna_tpe"),
    "optuna tpe + hyperband": Entry("optuna", "peers.optuna_tpe"),
    "ray tune asha": Entry("ray", "peers.ray_tune", conditional=False),
    "ray tune bohb": Entry("ray", "peers.ray_tune"),
    "syne tune asha": Entry("syne-tune-legacy", "peers.syne_tune_legacy", conditional=False),
    "syne tune mobster": Entry("syne-tune-legacy", "peers.syne_tune_legacy", conditional=False),
    "syne tune hyper-tune": Entry("syne-tune-legacy", "peers.syne_tune_legacy", conditional=False),
    "syne tune asha-cqr": Entry("syne-tune", "peers.syne_tune_now", conditional=False),
    "syne tune bohb": Entry("syne-tune", "peers.syne_tune_now", conditional=False),
    "ax": Entry("ax", "peers.ax_client"),
    "ax + early stopping": Entry("ax", "peers.ax_client"),
}


def install(name: str, folder: Path, console: Console) -> Path:
    """Make an environment below the folder, or find it there as it should be; its interpreter."""
    if name == HERE:
        return Path(sys.executable)
    wanted = "\n".join(ENVIRONMENTS[name])
    python, note = folder / name / "bin" / "python", folder / name / "installed.txt"
    if not note.exists() or note.read_text() != wanted:
        console.print(f"Installing {', '.join(ENVIRONMENTS[name])} into {folder / name}; it is kept.")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]], check=True)
        note.write_text(wanted)
    return python
