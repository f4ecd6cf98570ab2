"""The simulated clock, and the statistics of what ran by it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.benchmarks.search.peers.optuna_tpe import OptunaTpe
from tests.benchmarks.search.peers.random_search import RandomSearch
from tests.benchmarks.search.peers.space import Choice, read
from tests.benchmarks.search.results import best_at, median, speedup, target, time_to
from tests.benchmarks.search.simulate import GO, PAUSE, RESUME, START, STOP, Job, Run, Task, Verdict, simulate
from tests.benchmarks.search.surrogate import Surrogate
from tests.benchmarks.search.tools import PLAIN

PARAMS = {
    "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "dropout": 0.1, "batch_size": 64, "scheduler": "cosine",
    "t_max": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    return Surrogate()


@dataclass
class InTurn:
    """Pauses each trial after each epoch, and starts two before it goes on with either."""

    heard: list[tuple[int, int, float, float]] = field(default_factory=list)
    waiting: list[int] = field(default_factory=lambda: [0, 1])

    def decide(self, _now: float, /) -> Job | None:
        return Job(self.waiting.pop(0), PARAMS) if self.waiting else None

    def report(self, trial: int, epoch: int, loss: float, now: float, /) -> Verdict:
        self.heard.append((trial, epoch, loss, now))
        self.waiting.append(trial)
        return PAUSE


@dataclass
class OneAtATime:
    """Has work for one worker only."""

    trials: int = 0
    at_work: bool = False

    def decide(self, _now: float, /) -> Job | None:
        if self.at_work:
            return None
        self.at_work, self.trials = True, self.trials + 1
        return Job(self.trials - 1, PARAMS)

    def report(self, _trial: int, epoch: int, _loss: float, _now: float, /) -> Verdict:
        self.at_work = epoch < 3
        return GO if epoch < 3 else STOP


def test_a_full_trial_takes_its_start_and_its_epochs(surrogate: Surrogate) -> None:
    task = Task(seed=3, workers=2, epochs=surrogate.epochs)
    run = simulate("random", RandomSearch(task), task, surrogate, horizon=200)
    params = [RandomSearch(task).decide(0.0).params]
    losses, seconds = surrogate.curve(params[0], seed=3 * 1_000_003)
    assert any(math.isclose(end, START + surrogate.epochs * seconds) for end in run.full)
    assert run.best[-1][1] <= min(losses)
    assert run.epochs >= surrogate.epochs * len(run.full)
    assert run.idle == 0


def test_a_paused_trial_goes_on_from_its_epoch_after_the_time_to_resume(surrogate: Surrogate) -> None:
    tool, task = InTurn(), Task(seed=0, workers=1, epochs=surrogate.epochs)
    losses, seconds = surrogate.curve(PARAMS, seed=0)
    run = simulate("in turn", tool, task, surrogate, horizon=2 * (START + seconds) + 2 * (RESUME + seconds) + 0.1)
    assert [(trial, epoch) for trial, epoch, _, _ in tool.heard] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert [loss for trial, _, loss, _ in tool.heard if trial == 0] == losses[:2]
    assert tool.heard[2][3] == pytest.approx(2 * (START + seconds) + RESUME + seconds)
    assert (run.trials, run.epochs) == (2, 4)


def test_reports_arrive_in_the_order_of_simulated_time(surrogate: Surrogate) -> None:
    class Listening(RandomSearch):
        def __init__(self, task: Task) -> None:
            super().__init__(task)
            self.times: list[float] = []

        def report(self, _trial: int, _epoch: int, _loss: float, now: float, /) -> Verdict:
            self.times.append(now)
            return GO

    task = Task(seed=1, workers=5, epochs=surrogate.epochs)
    tool = Listening(task)
    simulate("random", tool, task, surrogate, horizon=100)
    assert len(tool.times) > 100
    assert tool.times == sorted(tool.times)


def test_a_worker_without_work_waits_and_is_counted_idle(surrogate: Surrogate) -> None:
    task = Task(seed=0, workers=4, epochs=surrogate.epochs)
    run = simulate("one", OneAtATime(), task, surrogate, horizon=100.0)
    assert run.idle == pytest.approx(300.0)
    assert run.full == []


def test_a_trial_that_is_not_paused_cannot_be_resumed(surrogate: Surrogate) -> None:
    class Wrong(OneAtATime):
        def decide(self, _now: float, /) -> Job | None:
            return Job(0, PARAMS)

    task = Task(seed=0, workers=2, epochs=surrogate.epochs)
    with pytest.raises(RuntimeError, match="which is not paused"):
        simulate("wrong", Wrong(), task, surrogate, horizon=10)


def test_the_same_seed_gives_the_same_run(surrogate: Surrogate) -> None:
    tasks = [Task(seed=seed, workers=3, epochs=surrogate.epochs) for seed in (0, 0, 1)]
    runs = [simulate("random", RandomSearch(task), task, surrogate, horizon=60).best for task in tasks]
    assert runs[0] == runs[1] != runs[2]


def test_a_pruner_spends_the_same_time_on_more_trials(surrogate: Surrogate) -> None:
    task = Task(seed=0, workers=4, epochs=surrogate.epochs)
    plain, pruned = (
        simulate("optuna", OptunaTpe(task, prune=prune), task, surrogate, horizon=100) for prune in (False, True)
    )
    assert pruned.trials > plain.trials
    assert len(pruned.full) < len(plain.full)


def test_the_flat_space_has_every_branch() -> None:
    space = read()
    assert space.common["scheduler"] == Choice(("step", "plateau", "cosine"))
    assert set(space.flat) == set(space.common) | {"step_size", "gamma", "factor", "patience", "t_max"}


def _runs(seconds: list[float], *, horizon: float = 1000.0) -> list[Run]:
    """Runs that come to a loss of 0.1 at these seconds."""
    return [
        Run("any", seed, 1, horizon, best=[(1.0, 0.9), *([(at, 0.1)] if math.isfinite(at) else [])])
        for seed, at in enumerate(seconds)
    ]


def test_a_ratio_of_medians_has_an_interval_that_holds_it() -> None:
    told = speedup(_runs([400.0, 500.0, 600.0, 550.0]), _runs([90.0, 100.0, 110.0, 100.0]), 0.1)
    assert told.value == pytest.approx(525 / 100)
    assert 400 / 110 <= told.low < told.value < told.high <= 600 / 90


def test_what_never_came_there_counts_against_the_faster() -> None:
    never = speedup(_runs([400.0] * 3), _runs([100.0, math.inf, math.inf]), 0.1)
    assert (never.value, never.low) == (0.0, 0.0)
    cut = speedup(_runs([math.inf] * 3), _runs([100.0] * 3), 0.1)
    assert cut.value == cut.low == cut.high == 10.0
    assert math.isinf(median(np.array([1.0, math.inf])).value)


def test_the_target_is_what_plain_optuna_has_after_fifty_full_trials() -> None:
    runs = [
        Run(PLAIN, 0, 1, 99.0, best=[(1.0, 0.5), (50.0, 0.2), (51.0, 0.1)], full=[float(end) for end in range(1, 99)])
    ]
    assert target({PLAIN: runs}) == 0.2
    runs[0].full = runs[0].full[:49]
    with pytest.raises(ValueError, match="before 50 full trials"):
        target({PLAIN: runs})


def test_the_best_so_far_is_a_step_function() -> None:
    run = _runs([10.0])[0]
    assert best_at(run, np.array([0.5, 1.0, 9.9, 10.0])).tolist() == [math.inf, 0.9, 0.9, 0.1]
    assert time_to(run, 0.5) == 10.0
