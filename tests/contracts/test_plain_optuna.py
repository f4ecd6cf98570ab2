"""Why the ledger exists: what plain Optuna 5.0 does with several workers. It fails once Optuna mends that."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from sqlalchemy import event

from search.storage import close
from tests.crew import Crew, Together

NAME = "plain"
ASKED, WORKERS = 10, 4


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.end()


def optimize_in_step(rank: int, together: Together, url: str) -> None:
    """Three trials in step with the others, as trials of equal length are; then as Optuna likes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = RDBStorage(url)
    study = optuna.load_study(storage=storage, study_name=NAME, sampler=optuna.samplers.RandomSampler(seed=rank))
    calls = iter(range(3))

    def objective(trial: optuna.Trial) -> float:
        if next(calls, None) is not None:
            together()
        return trial.suggest_float("x", 0, 1)

    study.optimize(objective, callbacks=[MaxTrialsCallback(ASKED, states=(TrialState.COMPLETE,))])
    close(storage)


def test_four_workers_finish_more_trials_than_max_trials_callback_allows(sqlite_url: str, crew: Crew) -> None:
    storage = RDBStorage(sqlite_url)
    study = optuna.create_study(storage=storage, study_name=NAME)

    crew.run(WORKERS, optimize_in_step, sqlite_url)

    finished = study.get_trials(states=(TrialState.COMPLETE,))
    close(storage)
    assert len(finished) >= 3 * WORKERS > ASKED


def ask_at_once(rank: int, together: Together, url: str) -> tuple[int, float]:  # noqa: ARG001 - all alike
    """Pop a trial, holding back the write until all have read that it waits."""
    storage = RDBStorage(url)
    study = optuna.load_study(storage=storage, study_name=NAME)

    def before_write(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("UPDATE trials SET state"):
            together()

    event.listen(storage.engine, "before_cursor_execute", before_write)
    trial = study.ask()
    event.remove(storage.engine, "before_cursor_execute", before_write)
    answer = (trial.number, trial.suggest_float("x", 0, 1))
    close(storage)
    return answer


def test_two_workers_on_sqlite_both_get_the_one_enqueued_trial(sqlite_url: str, crew: Crew) -> None:
    storage = RDBStorage(sqlite_url)
    study = optuna.create_study(storage=storage, study_name=NAME)
    study.enqueue_trial({"x": 0.25})

    answers = crew.run(2, ask_at_once, sqlite_url)

    trials = study.trials
    close(storage)
    assert answers == [(0, 0.25), (0, 0.25)]
    assert len(trials) == 1
