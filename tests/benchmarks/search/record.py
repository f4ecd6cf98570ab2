"""Record real learning curves of the default study, of which `surrogate` makes an objective that costs no training.

``python -m tests.benchmarks.search.record --processes 2``: hours; it may be stopped, and goes on where it was. First
the five documented trials, then configurations drawn at random, then some of these with other seeds, which tells how
much is luck, then what TPE proposes from all of them: so the table is dense where every search ends up.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import optuna
from optuna.exceptions import ExperimentalWarning
from rich.console import Console
from rich.progress import track

from mlc_core import Diverged, EpochReport, Params, Stream, Value, digits, fit, stream_seed
from search.declaration import Declaration, built_in
from search.paper import paper_trials
from search.space import suggest
from search.study import fit_spec, paper_params

TABLE: Final = Path(__file__).with_name("curves.csv")
PARAMS: Final = ("optimizer", "lr", "weight_decay", "dropout", "batch_size", "scheduler", *(
    "step_size", "gamma", "factor", "patience", "t_max"
))  # fmt: skip
REPEATED: Final = 10_000  # index of the first repetition
HEAD: Final = ("index", "drawn", *PARAMS, "seconds")  # seconds of an epoch, the median; then the losses by epoch


@dataclass(frozen=True, slots=True)
class Task:
    """One fit to record."""

    index: int
    drawn: str  # paper, random, repeat or tpe
    flat: dict[str, Value]
    seed: int
    epochs: int


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--random", type=int, default=110, help="configurations drawn at random")
    asked.add_argument("--tpe", type=int, default=195, help="configurations proposed by TPE")
    asked.add_argument("--repeats", type=int, default=10, help="configurations trained with two more seeds")
    asked.add_argument("--processes", type=int, default=2, help="at the same time, of one thread each")
    asked.add_argument("--table", type=Path, default=TABLE)
    chosen = asked.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = built_in("default")
    digits()  # made once, before several processes want them
    context = multiprocessing.get_context("spawn")
    tasks = _tasks(study, chosen.table, chosen.random, chosen.tpe, chosen.repeats)
    with ProcessPoolExecutor(chosen.processes, mp_context=context) as pool:
        running: dict[Future[list[EpochReport]], Task] = {}
        for task in track(
            tasks, total=5 + chosen.random + chosen.tpe + 2 * chosen.repeats, console=Console(stderr=True)
        ):
            running[pool.submit(_train, task)] = task
            if len(running) == chosen.processes:
                _take(running, chosen.table)
        while running:
            _take(running, chosen.table)


def _tasks(study: Declaration, table: Path, random: int, tpe: int, repeats: int) -> Iterator[Task]:
    """Yield what is not in the table yet; each one is drawn when it is asked for, from what is there by then."""
    there = {int(row["index"]) for row in _rows(table)}
    for trial in paper_trials():
        if trial.number - 1 not in there:
            flat = paper_params(study, trial).to_flat()
            yield Task(trial.number - 1, "paper", flat, trial.seed, study.epochs)
    for index in range(5, 5 + random + tpe):
        if index == 5 + random:
            yield from _repeated(study, table, repeats, there)
        if index in there:
            continue
        drawn = "random" if index < 5 + random else "tpe"
        seed = stream_seed(study.seed, Stream.TRIAL, index)
        spec = fit_spec(study, _draw(study, table, index, drawn), seed=seed)
        yield Task(index, drawn, spec["params"], spec["seed"], spec["epochs"])


def _repeated(study: Declaration, table: Path, repeats: int, there: set[int]) -> Iterator[Task]:
    """Yield some of the better half of what was drawn at random, with other seeds."""
    rows = [row for row in _rows(table) if row["drawn"] == "random"]
    rows = sorted(rows, key=lambda row: min(losses_of(row), default=1.0))[: len(rows) // 2]
    for place, row in enumerate(rows[:: max(1, len(rows) // repeats)][:repeats]):
        for again in (0, 1):
            index = REPEATED + 2 * place + again
            if index not in there:
                seed = stream_seed(study.seed, Stream.TRIAL, index)
                spec = fit_spec(study, {**study.fixed, **params_of(row)}, seed=seed)
                yield Task(index, "repeat", spec["params"], spec["seed"], spec["epochs"])


def _draw(study: Declaration, table: Path, index: int, drawn: str) -> dict[str, Value]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=index)
        if drawn == "tpe":
            sampler = optuna.samplers.TPESampler(seed=index, multivariate=True, group=True, n_startup_trials=20)
    known = optuna.create_study(sampler=sampler)
    for row in _rows(table) if drawn == "tpe" else ():
        known.add_trial(_known(study, row))
    return suggest(known.ask(), study)


def _known(study: Declaration, row: dict[str, str]) -> optuna.trial.FrozenTrial:
    """Give a recorded configuration back to Optuna, with the distributions that the study draws from."""
    flat = params_of(row)
    blank = optuna.create_study().ask(fixed_distributions={})
    blank.storage.set_trial_system_attr(blank._trial_id, "fixed_params", flat)
    fixed = optuna.trial.Trial(blank.study, blank._trial_id)
    suggest(fixed, study)
    frozen = blank.storage.get_trial(blank._trial_id)
    value = min(losses_of(row), default=1.0)
    return optuna.trial.create_trial(params=frozen.params, distributions=frozen.distributions, value=value)


def params_of(row: dict[str, str]) -> dict[str, Value]:
    """Read the parameters that a recorded row has."""
    named = {key: row[key] for key in PARAMS if row[key]}
    return {key: value if key in ("optimizer", "scheduler") else _number(value) for key, value in named.items()}


def losses_of(row: dict[str, str]) -> list[float]:
    """Read the validation loss of each epoch; fewer than all where training diverged."""
    return [float(value) for key, value in row.items() if key.startswith("loss") and value]


def _number(text: str) -> int | float:
    return int(text) if text.isdecimal() else float(text)


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _train(task: Task) -> list[EpochReport]:
    reports: list[EpochReport] = []

    def on_epoch(report: EpochReport, /) -> bool:
        reports.append(report)
        return True

    with suppress(Diverged):
        fit(Params.from_flat(task.flat), seed=task.seed, epochs=task.epochs, threads=1, on_epoch=on_epoch)
    return reports


def _take(running: dict[Future[list[EpochReport]], Task], table: Path) -> None:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        _write(table, running.pop(future), future.result())


def _write(table: Path, task: Task, reports: list[EpochReport]) -> None:
    head = [*HEAD, *(f"loss{epoch}" for epoch in range(1, task.epochs + 1))]
    seconds = sorted(report.seconds for report in reports)
    row: dict[str, object] = {"index": task.index, "drawn": task.drawn}
    row |= {key: value for key, value in task.flat.items() if key in PARAMS}
    row["seconds"] = f"{seconds[len(seconds) // 2]:.3f}" if seconds else ""
    row |= {f"loss{report.epoch}": f"{report.val_loss:.5g}" for report in reports}
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, head)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
