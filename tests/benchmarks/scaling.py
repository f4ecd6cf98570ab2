"""Trials per hour of real workers on this machine, and how busy many more of them would be, by a simulation.

``python -m tests.benchmarks.scaling``: first a real `mlc-search run` with each layout of workers and threads, of trials
that are all as long; then 1 to 512 simulated workers, already started, whose trials are as long as those of a real
study. About 15 minutes on 2 cores; ``--only simulation`` takes seconds.
"""

from __future__ import annotations

import argparse
import heapq
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from mlc_core import choose, digits
from search.study import open_study
from search.views import trial_rows
from tests.small import command

PARTS: Final = ("machine", "simulation")
WORKERS: Final = tuple(2**power for power in range(10))  # simulated
A_WORKER, FIXED = 50, 1000  # trials of a budget
SEEDS: Final = 5

# Seconds of the 50 trials of a default search, five documented ones in front, with 2 workers on 2 cores with bf16.
RECORDED: Final = (
    58.9, 59.1, 63.2, 64.1, 68.5, 88.5, 5.0, 4.6, 6.2, 50.3, 54.5, 6.2, 6.2, 6.1, 6.2, 5.0, 5.3, 59.0, 19.2, 4.8, 76.3,
    4.2, 19.2, 4.8, 19.0, 76.1, 6.7, 25.3, 76.7, 6.3, 6.4, 24.9, 25.5, 76.4, 24.4, 6.2, 24.3, 24.6, 24.4, 73.8, 24.7,
    75.2, 25.2, 25.2, 75.4, 25.2, 6.0, 24.6, 26.3, 26.5,
)  # fmt: skip

STUDY: Final = """
name = "even"
epochs = {epochs}
threads = {threads}
keep = 1

[sampler]
name = "random"  # learns nothing from the order in which trials end

[pruner]
name = "none"

[space]
lr = {{ low = 1e-4, high = 1e-3, log = true }}

[fixed]
batch_size = 64
"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    asked.add_argument(
        "--layouts", nargs="+", type=layout, default=[(1, 1), (1, 2), (2, 1), (4, 1)], help="as 2x1: workers x threads"
    )
    asked.add_argument("--trials", type=int, default=16, help="of a run; a multiple of 4")
    asked.add_argument("--epochs", type=int, default=2, help="of a trial")
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--storage", help="of a study whose trials' lengths are taken; else recorded ones are")
    asked.add_argument("--study", default="default")
    asked.add_argument(
        "--overhead", type=float, default=0.3, help="seconds a trial beside training: ask, reports, tell; see storage"
    )
    asked.add_argument(
        "--locked", type=float, default=0.02, help="seconds of them that no other worker can have at the same time"
    )
    chosen = asked.parse_args()
    console = Console()
    if "machine" in chosen.only:
        runs = measure(chosen.layouts, trials=chosen.trials, epochs=chosen.epochs, rounds=chosen.rounds)
        show_runs(console, runs, trials=chosen.trials)
    if "simulation" in chosen.only:
        lengths = RECORDED if chosen.storage is None else lengths_of(chosen.study, chosen.storage)
        show_simulation(console, lengths, overhead=chosen.overhead, locked=chosen.locked)


def layout(text: str) -> tuple[int, int]:
    """Read workers and threads of a text such as 2x1."""
    workers, _, threads = text.partition("x")
    return int(workers), int(threads)


def measure(
    layouts: Sequence[tuple[int, int]], *, trials: int, epochs: int, rounds: int
) -> Mapping[tuple[int, int], Sequence[float]]:
    """Run each layout in turn, from the start of the command to its end: seconds, one a round."""
    digits()  # what is made once on a machine is made before the first run
    for threads in {threads for _, threads in layouts}:
        choose(device="cpu", threads=threads)
    seconds: dict[tuple[int, int], list[float]] = {one: [] for one in layouts}
    for _ in range(rounds):
        for workers, threads in layouts:
            with tempfile.TemporaryDirectory(prefix="mlc-benchmark-") as name:
                folder = Path(name)
                file = folder / "even.toml"
                file.write_text(STUDY.format(epochs=epochs, threads=threads))
                own = {"MLC_STORAGE": f"sqlite:///{folder / 'mlc-search.db'}", "MLC_ARTIFACTS": name}
                words = command("run", "--study", file, "--trials", trials, "--workers", workers)
                start = time.perf_counter()
                subprocess.run(words, cwd=folder, env=os.environ | own, stdout=subprocess.DEVNULL, check=True)
                seconds[workers, threads].append(time.perf_counter() - start)
    return seconds


def show_runs(console: Console, runs: Mapping[tuple[int, int], Sequence[float]], *, trials: int) -> None:
    """Print trials per hour; ratios are to the first layout, each round for itself."""
    table = Table(title=f"{trials} trials of equal length, start-up included; {os.cpu_count()} processors")
    for heading in ("workers", "threads each", "seconds", "trials/h", "ratio"):
        table.add_column(heading, justify="right")
    first = next(iter(runs.values()))
    for (workers, threads), seconds in runs.items():
        ratio = median(other / own for other, own in zip(first, seconds, strict=True))
        rate = 3600 * trials / median(seconds)
        table.add_row(str(workers), str(threads), f"{median(seconds):.1f}", f"{rate:,.0f}", f"{ratio:.2f} x")
    console.print(table)


def lengths_of(study: str, storage: str) -> tuple[float, ...]:
    """Read the seconds that a study's finished trials trained, over all of their epochs."""
    with open_study(study, storage) as opened:
        return tuple(row.seconds for row in trial_rows(opened) if row.seconds is not None)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of a budget."""

    utilisation: float  # seconds of training over all seconds of all workers, until the last trial ends
    speed_up: float  # over one worker, with the same trials


def simulate(lengths: Sequence[float], workers: int, *, overhead: float, locked: float) -> Simulated:
    """Let workers take trials, in the order of the list, as soon as they are free.

    Parameters
    ----------
    lengths : sequence of float
        Seconds of training, one a trial.
    workers : int
    overhead, locked : float
        Seconds beside training for each trial, and those of them for which workers wait for each other in a line.
        All are spent before the training, which makes the line no shorter.
    """
    free = [0.0] * workers  # when each worker is
    line = 0.0  # when the one who is locked in will be done
    for length in lengths:
        line = max(heapq.heappop(free), line) + locked
        heapq.heappush(free, line + overhead - locked + length)
    end = max(free)
    alone = sum(lengths) + overhead * len(lengths)
    return Simulated(sum(lengths) / (workers * end), alone / end)


def show_simulation(console: Console, lengths: Sequence[float], *, overhead: float, locked: float) -> None:
    """Print utilisation and speed-up by workers, for a budget that grows with them and for a fixed one."""
    table = Table(
        title=f"Simulated: lengths of {len(lengths)} trials, {mean(lengths):.1f} s on average, at most "
        f"{max(lengths):.1f}; {overhead} s beside each, {locked} of them locked"
    )
    table.add_column("workers", justify="right")
    for heading in (f"{A_WORKER} a worker", f"{FIXED:,} trials"):
        table.add_column(f"{heading}: utilisation", justify="right")
        table.add_column("speed-up", justify="right")
    for workers in WORKERS:
        cells = []
        for budget in (A_WORKER * workers, FIXED):
            results = [
                simulate(
                    np.random.default_rng(seed).choice(lengths, budget).tolist(),
                    workers,
                    overhead=overhead,
                    locked=locked,
                )
                for seed in range(SEEDS)
            ]
            cells.append(f"{mean(one.utilisation for one in results):.1%}")
            cells.append(f"{mean(one.speed_up for one in results):,.1f} x")
        table.add_row(str(workers), *cells)
    console.print(table)
    console.print(
        "A search learns less of each trial the more run at once: this counts trials, not how good the best one gets."
    )


if __name__ == "__main__":
    main()
