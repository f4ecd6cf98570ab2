"""Any search tool on simulated workers: what each would have found by when, had each epoch taken its time.

Standard library, numpy and what `surrogate` needs: it runs in the environments of tools that have no mlc-search, from
the root of the repository: ``python -m tests.benchmarks.search.peers.random_search random --workers 4 --horizon 500
--out runs.jsonl``, which is also the example of a tool.

The protocol. A tool answers two questions, of an object of its own for each run (`Tool`):

``decide(now)``
    A worker is free at this simulated second. What shall it do? A `Job` whose trial has not been seen starts a fresh
    one; a `Job` of a paused trial resumes it after the epoch it had reached. None: nothing now; the worker waits, and
    is asked again after the next report of any other. Decisions take no simulated time. Free workers are asked in
    their order, one after the other, so a tool has its earlier answers in mind.
``report(trial, epoch, loss, now)``
    The trial has trained this epoch (counted from 1), with this validation loss. Shall it go on? GO: its worker
    trains the next epoch; PAUSE: its worker is free, the trial can be resumed by a later `Job`; STOP: its worker is
    free, and the trial is over. After its last epoch a trial is over whatever the answer is, and its worker is free.

A tool that runs up to some epoch and then decides anew answers PAUSE there. Reports arrive one by one in the order of
simulated time, so an asynchronous tool sees what it would have seen. Time passes while a trial starts (`START`) or
resumes (`RESUME`), and while it trains: what `surrogate` says for its parameters. All trials of a tool's run have
numbers of their own, and a run has a seed: they decide the curve's noise.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np

from tests.benchmarks.search import surrogate as surrogate_module
from tests.benchmarks.search.surrogate import TABLE, Surrogate

START: Final = 1.0  # simulated seconds before a fresh trial's first epoch
RESUME: Final = 1.0  # and before a resumed one's next

Params = Mapping[str, Any]  # as the default study names them; a branch parameter of another scheduler changes nothing
Verdict = Literal["go", "pause", "stop"]
GO: Final[Verdict] = "go"
PAUSE: Final[Verdict] = "pause"
STOP: Final[Verdict] = "stop"


@dataclass(frozen=True, slots=True)
class Job:
    """What a free worker does next."""

    trial: int  # the tool's number of it, from 0; one seen before is resumed
    params: Params


class Tool(Protocol):
    """A search tool as the simulation drives it; the module's docstring is the contract."""

    def decide(self, now: float, /) -> Job | None: ...
    def report(self, trial: int, epoch: int, loss: float, now: float, /) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Task:
    """What a tool is told before it begins."""

    seed: int
    workers: int
    epochs: int  # of a full trial


Build = Callable[[Task], Tool]


@dataclass(slots=True)
class Run:
    """What came out of one run; a line of the results."""

    tool: str
    seed: int
    workers: int
    horizon: float  # simulated seconds at which it ended
    best: list[tuple[float, float]] = field(default_factory=list)  # simulated second, best loss of any report so far
    full: list[float] = field(default_factory=list)  # simulated seconds at which a trial came to its last epoch
    trials: int = 0
    resumed: int = 0
    epochs: int = 0
    idle: float = 0.0  # worker seconds without a job
    table: str = ""  # what `digest` says of the recorded curves


@dataclass(slots=True)
class _Trial:
    """A trial of the run, with the curve that it follows."""

    losses: Sequence[float]
    seconds: float  # of an epoch
    epoch: int = 0  # reached
    paused: bool = False


def simulate(name: str, tool: Tool, task: Task, surrogate: Surrogate, *, horizon: float) -> Run:
    """Let the tool search with so many workers until the simulated second `horizon`; of infinity, until it is done.

    Raises
    ------
    RuntimeError
        The tool has nothing to do before the horizon although no worker is at work, or resumes what is not paused.
    """
    run = Run(name, task.seed, task.workers, horizon)
    trials: dict[int, _Trial] = {}
    free = dict.fromkeys(range(task.workers), 0.0)  # since when
    events: list[tuple[float, int, int, int]] = []  # second, order of creation, worker, trial: its next epoch ends
    order = count()

    def give_work(now: float) -> None:
        for worker in sorted(free):
            job = tool.decide(now)
            if job is None:
                break
            run.idle += now - free.pop(worker)
            begin = _begin(job, trials, task, surrogate, run)
            heapq.heappush(events, (now + begin + trials[job.trial].seconds, next(order), worker, job.trial))
        if not events and math.isfinite(horizon):
            raise RuntimeError(f"{name} gives no job at {now:.0f} s, and none is at work.")

    give_work(0.0)
    while events and events[0][0] <= horizon:
        now, _, worker, number = heapq.heappop(events)
        trial = trials[number]
        trial.epoch += 1
        run.epochs += 1
        loss = trial.losses[trial.epoch - 1]
        if not run.best or loss < run.best[-1][1]:
            run.best.append((now, loss))
        verdict = tool.report(number, trial.epoch, loss, now)
        if trial.epoch == task.epochs:
            run.full.append(now)
        elif verdict == GO:
            heapq.heappush(events, (now + trial.seconds, next(order), worker, number))
            continue
        trial.paused = verdict == PAUSE and trial.epoch < task.epochs
        free[worker] = now
        give_work(now)
    run.horizon = horizon if events else now
    run.idle += sum(run.horizon - since for since in free.values())
    return run


def _begin(job: Job, trials: dict[int, _Trial], task: Task, surrogate: Surrogate, run: Run) -> float:
    """Enter the job's trial; the seconds before it trains."""
    known = trials.get(job.trial)
    if known is None:
        # Whatever numbers the tool uses: a run's seed and a trial's number make one number of their own.
        losses, seconds = surrogate.curve(job.params, seed=task.seed * 1_000_003 + job.trial)
        if not all(map(math.isfinite, losses)):
            raise RuntimeError(f"The surrogate's curve of {dict(job.params)} is not finite.")
        trials[job.trial] = _Trial(losses[: task.epochs], seconds)
        run.trials += 1
        return START
    if not known.paused:
        raise RuntimeError(f"{run.tool} resumes trial {job.trial}, which is not paused.")
    known.paused = False
    run.resumed += 1
    return RESUME


def digest(table: Path) -> str:
    """Tell one table of recorded curves from another, and one surrogate: runs on two of them cannot be compared."""
    made_of = (table, surrogate_module.FITTED, Path(surrogate_module.__file__))
    return hashlib.sha256(b"".join(file.read_bytes() for file in made_of)).hexdigest()[:12]


def main(tools: Mapping[str, Build]) -> None:
    """Run one of these tools as the command line says, and append the run to a file of JSON lines.

    An environment's script ends with ``main({"its name": build})``. So does ours.
    """
    asked = argparse.ArgumentParser()
    asked.add_argument("tool", choices=tools)
    asked.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--horizon", type=float, required=True, help="simulated seconds")
    asked.add_argument("--out", type=Path, required=True, help="file of JSON lines, appended to")
    asked.add_argument("--table", type=Path, default=TABLE, help="of recorded curves")
    chosen = asked.parse_args()
    surrogate = Surrogate(chosen.table)
    for seed in chosen.seeds:
        task = Task(seed, chosen.workers, surrogate.epochs)
        # What some tools draw from, whatever seed they are given.
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        run = simulate(chosen.tool, tools[chosen.tool](task), task, surrogate, horizon=chosen.horizon)
        run.table = digest(chosen.table)
        with chosen.out.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")
