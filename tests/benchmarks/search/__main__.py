"""Searches compared at equal workers and simulated time, on learning curves recorded once.

``python -m tests.benchmarks.search``: each tool in an environment of its own, installed on first use; every run that is
not in the folder of results yet; then a table for each number of workers, and the picture. A run that was stopped is
run again, the others are kept. ``--only-report`` runs nothing. Hours: Gaussian processes take their time to decide,
which is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

from rich.console import Console

from mlc_core import MlcError
from mlc_core.cache import cache_dir
from search.figure_files import FORMATS, Format
from tests.benchmarks.search import picture, table
from tests.benchmarks.search.peers.space import Choice, read
from tests.benchmarks.search.results import FULL
from tests.benchmarks.search.results import read as read_runs
from tests.benchmarks.search.simulate import START, Run, digest
from tests.benchmarks.search.surrogate import TABLE, Surrogate
from tests.benchmarks.search.tools import OURS, TOOLS, install

ROOT: Final = Path(__file__).parents[3]
FASTER_THAN_PLAIN, FASTER_THAN_BEST, EFFICIENT = 5.0, 1.5, 0.8  # the bars


@dataclass(frozen=True, slots=True)
class Missing:
    """Runs of one tool that are still to be made, by one process."""

    tool: str
    workers: int
    seeds: tuple[int, ...]
    horizon: float  # simulated seconds


def main() -> None:
    """Print the tables; the exit code is 1 where a run failed or a bar is missed."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="TOOL", help=", ".join(TOOLS))
    asked.add_argument("--seeds", type=int, default=10)
    asked.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    asked.add_argument(
        "--horizon", type=float, default=2.0, help=f"of a run, in times that {FULL} full trials of average length take"
    )
    asked.add_argument("--processes", type=int, default=2, help="at the same time, of one thread each")
    asked.add_argument("--results", type=Path, help="folder of runs and picture; by default in the cache folder")
    asked.add_argument("--environments", type=Path, help="folder of the tools' own; by default in the cache folder")
    asked.add_argument("--table", type=Path, default=TABLE, help="of recorded curves")
    asked.add_argument("--formats", nargs="+", choices=FORMATS, default=["html"], help="of the picture")
    asked.add_argument("--only-report", action="store_true")
    asked.add_argument("--json", action="store_true", help="the tables as JSON")
    chosen = asked.parse_args()
    console = Console(stderr=True)
    results = chosen.results or cache_dir() / "search-results"
    results.mkdir(parents=True, exist_ok=True)
    failed = 0
    if not chosen.only_report:
        horizon = chosen.horizon * _seconds_of_full(chosen.table)
        wanted = [
            Missing(tool, workers, tuple(range(chosen.seeds)), horizon / workers)
            for workers in chosen.workers
            for tool in chosen.tools
        ]
        missing = list(_missing(wanted, _comparable(results, chosen.table)))
        environments = chosen.environments or cache_dir() / "search-tools"
        failed = _run(missing, environments, results, chosen.table, chosen.processes, console)
    runs = [
        run
        for run in _comparable(results, chosen.table)
        if run.tool in chosen.tools and run.workers in chosen.workers and run.seed < chosen.seeds
    ]
    sys.exit(1 if failed else not report(runs, results, chosen.formats, as_json=chosen.json))


def report(runs: Sequence[Run], folder: Path, formats: Sequence[Format], *, as_json: bool) -> bool:
    """Print a table for each number of workers, write the picture; whether all bars are met."""
    talk, console = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 160)
    try:
        told = [table.rows(runs, workers) for workers in sorted({run.workers for run in runs})]
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if not told:
        raise SystemExit(f"No run of this table of curves is in {folder}.")
    if as_json:
        print(json.dumps([row for rows in told for row in table.as_json(rows)], indent=2))  # noqa: T201
    else:
        for rows in told:
            console.print(table.drawn(rows))
    try:
        for file in picture.save(runs, folder, formats):
            talk.print(f"Picture: {file}")
    except MlcError as error:  # no browser, or no kaleido: html needs neither
        raise SystemExit(str(error)) from None
    judged = [_judge(rows, talk) for rows in told]  # each is printed
    return all(judged)


def _judge(rows: Sequence[dict[str, Any]], talk: Console) -> bool:
    """Hold ours to the bars; true where ours was not run."""
    ours = next((row for row in rows if row["tool"] == OURS), None)
    if ours is None:
        return True
    plain = ours["faster_than_plain"]
    peers = [row["ours_faster"] for row in rows if row["ours_faster"] is not None]
    best = min(peers, key=lambda told: told.value)
    checks = [
        (f"as fast as plain Optuna TPE times {plain.value:.2f}", FASTER_THAN_PLAIN, plain.value),
        (f"as fast as the best peer times {best.value:.2f}", FASTER_THAN_BEST, best.value),
        (f"lower end of that interval {best.low:.2f}", 1.0, best.low),
    ]
    if ours["efficiency"] is not None:
        checks.append((f"parallel efficiency {ours['efficiency']:.2f}", EFFICIENT, ours["efficiency"]))
    for words, bar, value in checks:
        talk.print(f"{ours['workers']} workers, {words}, at least {bar}: {'yes' if value >= bar else 'NO'}")
    return all(value >= bar for _, bar, value in checks)


def _seconds_of_full(curves: Path) -> float:
    """Seconds that one worker takes for 50 full trials, by the mean over batch sizes."""
    surrogate, sizes = Surrogate(curves), read().common["batch_size"]
    assert isinstance(sizes, Choice)
    any_params = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4, "dropout": 0.1, "scheduler": "cosine"}
    batches = ({**any_params, "t_max": surrogate.epochs, "batch_size": size} for size in sizes.values)
    seconds = [surrogate.curve(params, 0)[1] for params in batches]
    return float(FULL * (START + surrogate.epochs * mean(seconds)))


def _comparable(results: Path, curves: Path) -> list[Run]:
    """Read the runs on this table of curves; of two with the same seed the longer."""
    of_table = [run for run in read_runs(results) if run.table == digest(curves)]
    longest = {(run.tool, run.workers, run.seed): run for run in sorted(of_table, key=lambda run: run.horizon)}
    return list(longest.values())


def _missing(wanted: Iterable[Missing], there: Sequence[Run]) -> Iterator[Missing]:
    known = {(run.tool, run.workers, run.seed): run.horizon for run in there}
    for each in wanted:
        seeds = tuple(
            seed for seed in each.seeds if known.get((each.tool, each.workers, seed), 0.0) < each.horizon * 0.999
        )
        if seeds:
            yield Missing(each.tool, each.workers, seeds, each.horizon)


def _run(
    missing: Sequence[Missing], environments: Path, results: Path, curves: Path, processes: int, console: Console
) -> int:
    """Make the runs, so many at the same time; how many processes failed."""
    names = sorted({TOOLS[each.tool].environment for each in missing})
    pythons = {name: install(name, environments, console) for name in names}

    def run(task: Missing) -> subprocess.CompletedProcess[str]:
        entry = TOOLS[task.tool]
        module = f"tests.benchmarks.search.{entry.module}"
        name = f"{task.tool} {task.workers}".replace(" + ", "-").replace(" ", "-")
        words = [task.tool, "--workers", task.workers, "--horizon", task.horizon, "--seeds", *task.seeds]
        files = ["--table", curves.resolve(), "--out", (results / f"{name}.jsonl").resolve()]
        command = [str(pythons[entry.environment]), "-m", module, *map(str, [*words, *files])]
        # One thread each: more of them wait for each other where several processes share the cores.
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return subprocess.run(command, cwd=ROOT, env=os.environ | one, capture_output=True, text=True)

    failed = 0
    with ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(run, each): each for each in missing}
        for number, future in enumerate(as_completed(futures), start=1):
            task, done = futures[future], future.result()
            words = f"{number} of {len(missing)}: {task.tool}, {task.workers} workers, {len(task.seeds)} seeds"
            console.print(words if done.returncode == 0 else f"{words} FAILED:\n{done.stderr[-2000:]}", markup=False)
            failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    main()
