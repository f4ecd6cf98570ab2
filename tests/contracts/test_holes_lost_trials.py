"""Trials whose worker died at once, or that raised: what plain Optuna 5.0.0 does with them, and what we do.

The table of all holes is in test_plain_optuna.py.
"""

from __future__ import annotations

import json
import signal
from itertools import count
from pathlib import Path

import optuna
import pytest
from optuna.storages import fail_stale_trials
from optuna.trial import TrialState

from search.ledger import ask
from search.study import open_study
from tests import small
from tests.contracts.doomed import die, die_before, end_of, let_a_day_pass, plain, until
from tests.contracts.opened import GRACE, NAME, beats, claimed_again, load, ours, states

COMPLETE, FAIL, RUNNING, WAITING = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING


def optimize_and_die(url: str, beaten: bool) -> None:
    with plain(url) as storage:

        def objective(trial: optuna.Trial) -> float:
            trial.suggest_float("x", 0, 1)
            until(lambda: beats(storage))
            die()
            return 0.0

        if not beaten:
            die_before(storage.engine, only="INSERT INTO trial_heartbeats")
        load(storage).optimize(objective, n_trials=1)


def nothing(_trial: optuna.Trial) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("beaten", "after"), [(True, [FAIL, COMPLETE, COMPLETE]), (False, [RUNNING, COMPLETE, COMPLETE])]
)
def test_plain_optuna_never_fails_a_trial_that_died_before_its_first_beat(
    storage_url: str, beaten: bool, after: list[TrialState]
) -> None:
    with plain(storage_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        assert end_of(optimize_and_die, storage_url, beaten) == -signal.SIGKILL
        let_a_day_pass(storage.engine)

        study.optimize(nothing, n_trials=2)  # each looks for lost trials first

        assert states(study) == after


def sweep_and_die(url: str) -> None:
    with plain(url) as storage:
        die_before(storage.engine, only="INSERT INTO trials ")
        fail_stale_trials(load(storage))


def test_plain_optuna_loses_the_retry_when_the_sweeper_dies_before_it(storage_url: str) -> None:
    with plain(storage_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        end_of(optimize_and_die, storage_url, True)
        let_a_day_pass(storage.engine)
        assert end_of(sweep_and_die, storage_url) == -signal.SIGKILL

        study.optimize(nothing, n_trials=2)

        assert states(study) == [FAIL, COMPLETE, COMPLETE]
        assert [trial.params for trial in study.trials[1:]] == [{}, {}]  # neither has the lost trial's x


def claim_and_die(url: str, worker: str, moment: int) -> None:
    with ours(url) as (_, ledger):
        die_before(ledger._storage.engine, moment)
        ledger.claim(worker, grace=GRACE)


@pytest.mark.parametrize("lost", [False, True])
def test_wherever_a_claim_is_killed_its_trial_is_claimed_again_with_its_parameters(
    storage_url: str, lost: bool
) -> None:
    with ours(storage_url) as here:
        here.ledger.open_budget(1)
        params = {}
        if lost:  # then each process that claims has a lost trial to put back first
            params["x"] = ask(here.study, claimed_again(here)).suggest_float("x", 0, 1)
        for moment in count(1):
            let_a_day_pass(here.ledger._storage.engine)
            code = end_of(claim_and_die, storage_url, f"doomed {moment}", moment)
            assert [state for state in states(here.study) if state not in (RUNNING, WAITING)] == []
            if code == 0:  # it had claimed before it could be killed, and ended without a beat
                break
            assert code == -signal.SIGKILL

        again = claimed_again(here)

        assert moment > 6  # it was killed at so many moments
        assert (again.number, here.study.trials[0].params) == (0, params)
        assert states(here.study) == [RUNNING]
        assert here.ledger.finish(again.trial_id, worker="the living", state=COMPLETE, value=0.5)


def test_plain_optuna_recovers_nothing_until_somebody_optimizes(storage_url: str) -> None:
    with plain(storage_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        end_of(optimize_and_die, storage_url, True)
        let_a_day_pass(storage.engine)

        study.tell(study.ask(), 0.5)

        assert states(load(storage)) == [RUNNING, COMPLETE]
        assert beats(storage) == 1  # what is asked and told never beats


def claim_ours_and_die(url: str) -> None:
    with open_study(small.NAME, url) as study:
        study.ledger.open_budget(1)
        study.ledger.claim("dead")
        die()


def test_the_status_of_a_study_whose_workers_all_died_names_no_running_trial(storage_url: str, tmp_path: Path) -> None:
    with open_study(str(small.declare(tmp_path)), storage_url, create=True) as study:
        assert end_of(claim_ours_and_die, storage_url) == -signal.SIGKILL
        let_a_day_pass(study.storage.engine)

    said = small.call("status", "--study", small.NAME, "--json", folder=tmp_path, storage=storage_url).stdout

    assert json.loads(said)["running"] == []
    assert json.loads(said)["trials"]["waiting"] == 1


def test_plain_optuna_neither_retries_a_trial_that_raised_nor_keeps_why(storage_url: str) -> None:
    def raises(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        raise OSError("the folder is not mounted")

    with plain(storage_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        study.optimize(raises, n_trials=1, catch=(OSError,))
        with pytest.raises(OSError, match="not mounted"):  # and without catch, the worker ends
            study.optimize(raises, n_trials=5)

        assert states(study) == [FAIL, FAIL]
        assert "mounted" not in repr(study.trials)
