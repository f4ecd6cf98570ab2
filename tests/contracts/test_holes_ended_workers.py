"""Workers that are ended: what becomes of their trials, of the others', and of the sampler; plain Optuna 5.0.0, and we.

The table of all holes is in test_plain_optuna.py.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from search.ledger import Claim, ask
from tests.contracts.doomed import PATIENCE, die, end_of, let_a_day_pass, plain, start, until
from tests.contracts.opened import NAME, beats, claimed_again, load, ours, states

COMPLETE, FAIL, RUNNING, WAITING = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING


def slow(_trial: optuna.Trial) -> float:
    time.sleep(PATIENCE)
    return 0.0


def optimize_and_wait(url: str, by_exit: bool) -> None:
    if by_exit:  # as many a launcher does
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with plain(url) as storage:
        load(storage).optimize(slow, n_trials=1)


@pytest.mark.parametrize(
    ("by_exit", "how", "code"),
    [
        (False, signal.SIGKILL, -signal.SIGKILL),
        (False, signal.SIGTERM, -signal.SIGTERM),
        (True, signal.SIGTERM, 0),
    ],
)
def test_plain_optuna_leaves_the_trial_of_an_ended_worker_running(
    sqlite_url: str, by_exit: bool, how: signal.Signals, code: int
) -> None:
    with plain(sqlite_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        process = start(optimize_and_wait, sqlite_url, by_exit)
        until(lambda: beats(storage))

        os.kill(process.pid or 0, how)
        process.join(PATIENCE)

        assert process.exitcode == code
        assert states(study) == [RUNNING]


def ask_ten_and_die(url: str) -> None:
    with plain(url) as storage:
        study = load(storage)
        for _ in range(10):
            study.ask().suggest_float("x", 0, 1)
        die()


def near_the_best(study: optuna.Study) -> int:
    """How many of 40 draws of TPE fall into the tenth of the space around the best trial."""
    near = 0
    for seed in range(40):
        study.sampler = TPESampler(seed=seed)
        trial = study.ask()
        near += abs(trial.suggest_float("x", 0, 1) - 0.5) < 0.05
        study.tell(trial, state=FAIL)  # which samplers overlook
    return near


def test_plain_optunas_sampler_keeps_away_from_where_trials_died(sqlite_url: str) -> None:
    with plain(sqlite_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME, sampler=RandomSampler(seed=0))
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1) - 0.5) ** 2, n_trials=30)
        before = near_the_best(study)
        for place in range(10):
            study.enqueue_trial({"x": 0.46 + 0.008 * place})
        assert end_of(ask_ten_and_die, sqlite_url) == -signal.SIGKILL
        let_a_day_pass(storage.engine)

        after = near_the_best(study)

        assert states(study).count(RUNNING) == 10
        assert after < 0.5 * before


def claim_ten_and_die(url: str) -> None:
    with ours(url) as (study, ledger):
        for _ in range(10):
            claim = ledger.claim("dead")
            assert isinstance(claim, Claim)
            ask(study, claim).suggest_float("x", 0, 1)
        die()


def test_one_claim_puts_all_lost_trials_back_so_that_no_sampler_sees_them_run(storage_url: str) -> None:
    with ours(storage_url) as here:
        here.ledger.open_budget(10)
        assert end_of(claim_ten_and_die, storage_url) == -signal.SIGKILL
        assert states(here.study) == [RUNNING] * 10

        claimed_again(here)

        assert states(here.study) == [RUNNING] + [WAITING] * 9


def optimize_in_threads(url: str) -> None:
    with plain(url) as storage:
        load(storage).optimize(slow, n_trials=3, n_jobs=3)


def test_plain_optunas_n_jobs_die_together(sqlite_url: str) -> None:
    with plain(sqlite_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        process = start(optimize_in_threads, sqlite_url)
        until(lambda: beats(storage) == 3)

        process.kill()
        process.join(PATIENCE)

        assert states(study) == [RUNNING] * 3


def claim_and_finish(url: str, worker: str, go_on: Path) -> None:
    with ours(url) as (_, ledger):
        claim = ledger.claim(worker)
        assert isinstance(claim, Claim)
        until(go_on.exists)  # no event: of those that wait for one, none must die
        assert ledger.finish(claim.trial_id, worker=worker, state=COMPLETE, value=0.5)


def test_a_killed_worker_takes_no_other_trial_with_it(storage_url: str, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with ours(storage_url) as here:
        here.ledger.open_budget(3)
        workers = [start(claim_and_finish, storage_url, f"worker {rank}", go_on) for rank in range(3)]
        until(lambda: len(states(here.study)) == 3)

        workers[1].kill()
        go_on.touch()
        for worker in workers:
            worker.join(PATIENCE)

        assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL, 0]
        assert sorted(states(here.study)) == [RUNNING, COMPLETE, COMPLETE]
        claimed_again(here)
        failures = [trial.user_attrs.get("failure") for trial in here.study.trials]
        assert sorted(map(str, failures)) == ["None", "None", "['lost: worker worker 1 fell silent']"]
