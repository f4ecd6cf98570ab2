"""Every hole of plain Optuna 5.0.0 that we close: the test that shows it, and the one that shows it closed here.

A test of plain Optuna fails once Optuna mends the hole; then ours may become simpler.

H1 A worker that dies before its trial's first beat leaves it running for ever.
    plain test_holes_lost_trials.py test_plain_optuna_never_fails_a_trial_that_died_before_its_first_beat
    ours test_holes_lost_trials.py test_wherever_a_claim_is_killed_its_trial_is_claimed_again_with_its_parameters
H2 A sweeper that dies between failing a trial and enqueueing it again loses it.
    plain test_holes_lost_trials.py test_plain_optuna_loses_the_retry_when_the_sweeper_dies_before_it
    ours test_holes_lost_trials.py test_wherever_a_claim_is_killed_its_trial_is_claimed_again_with_its_parameters
H3 One failure of the database ends the thread that beats.
    plain test_holes_database.py \
        test_one_failure_of_the_database_ends_plain_optunas_heart_then_its_trial_then_its_worker
    ours test_holes_database.py \
        test_a_workers_heart_beats_on_after_the_database_failed_for_longer_than_it_was_waited_for
H4 Nobody recovers a lost trial until another is optimized; what is asked and told never beats.
    plain test_holes_lost_trials.py test_plain_optuna_recovers_nothing_until_somebody_optimizes
    ours test_holes_lost_trials.py test_the_status_of_a_study_whose_workers_all_died_names_no_running_trial
    ours test_ledger.py test_the_list_of_workers_shows_who_is_there_and_forgets_who_fell_silent
H5 What raises is not tried again, and nobody remembers why.
    plain test_holes_lost_trials.py test_plain_optuna_neither_retries_a_trial_that_raised_nor_keeps_why
    ours test_ledger.py test_a_trial_is_given_up_after_its_last_attempt_and_another_takes_its_place
H6 On SQLite two workers get one enqueued trial.
    plain test_plain_optuna.py test_two_workers_on_sqlite_both_get_the_one_enqueued_trial
    ours test_ledger.py test_forty_trials_asked_are_forty_trials_finished_and_none_is_run_twice
H7 A journal is lost by half a line, and its snapshot is a pickle.
    plain test_holes_files.py test_plain_optunas_journal_cannot_be_read_any_more_after_a_write_was_cut_short
    plain test_holes_files.py test_opening_plain_optunas_journal_runs_what_its_snapshot_holds
    ours test_holes_files.py test_a_journal_is_refused_with_what_can_be_used_instead
H8 CMA-ES unpickles what the database holds.
    plain test_holes_files.py test_plain_optunas_cma_es_runs_what_the_database_holds
    ours test_holes_files.py test_no_sampler_that_a_study_can_name_unpickles_anything
Idea 1 The budget is overshot.
    plain test_plain_optuna.py test_four_workers_finish_more_trials_than_max_trials_callback_allows
    ours test_ledger.py test_forty_trials_asked_are_forty_trials_finished_and_none_is_run_twice
Idea 3 Reports, attributes and ends fail with the database, at once.
    plain test_holes_database.py \
        test_plain_optuna_fails_at_its_first_call_after_the_server_dropped_an_idle_connection
    ours test_holes_database.py test_a_connection_that_the_server_dropped_while_idle_is_replaced_unnoticed
    ours test_holes_database.py test_wherever_a_trials_connection_is_cut_it_is_finished_once_with_what_it_drew
    plain test_holes_database.py test_plain_optuna_fails_when_the_server_has_no_connection_left
    ours test_holes_database.py test_a_worker_waits_while_the_server_has_no_connection_left
    plain test_holes_database.py test_plain_optuna_may_open_fifteen_connections_a_process
    ours test_holes_database.py test_a_process_opens_at_most_four_connections
Idea 4 SIGTERM and SIGKILL leave the trial running, and its training starts again.
    plain test_holes_ended_workers.py test_plain_optuna_leaves_the_trial_of_an_ended_worker_running
    ours ../crash/test_killed_search.py test_a_killed_workers_trial_goes_on_from_its_checkpoint_to_the_same_bits
    ours ../crash/test_killed_search.py test_an_interrupted_run_loses_nothing_and_goes_on
Idea 5 Trials left running repel TPE for ever.
    plain test_holes_ended_workers.py test_plain_optunas_sampler_keeps_away_from_where_trials_died
    ours test_holes_ended_workers.py test_one_claim_puts_all_lost_trials_back_so_that_no_sampler_sees_them_run
Idea 12 Trials that share a process die with it.
    plain test_holes_ended_workers.py test_plain_optunas_n_jobs_die_together
    ours test_holes_ended_workers.py test_a_killed_worker_takes_no_other_trial_with_it
Idea 20 Files stay for ever.
    plain test_holes_files.py test_plain_optuna_keeps_the_files_of_a_study_that_is_deleted
    ours ../search/test_run.py test_only_the_best_trials_keep_their_weights_and_finished_ones_no_checkpoint
    ours ../search/test_cli.py test_delete_asks_first_and_takes_the_files_with_it
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from sqlalchemy import event

from tests.contracts.doomed import plain
from tests.crew import Crew, Together

NAME = "plain"
ASKED, WORKERS = 10, 4


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.end()


def test_the_tests_named_above_are_there() -> None:
    named = re.findall(r"^    (?:plain|ours) (\S+)\s+(\w+)$", str(__doc__), re.MULTILINE)
    folder = Path(__file__).parent
    missing = [(file, name) for file, name in named if f"def {name}(" not in (folder / file).read_text()]
    assert len(named) == len(re.findall(r"^    (?:plain|ours) ", str(__doc__), re.MULTILINE))
    assert missing == []


def optimize_in_step(rank: int, together: Together, url: str) -> None:
    """Three trials in step with the others, as trials of equal length are; then as Optuna likes."""
    calls = iter(range(3))

    def objective(trial: optuna.Trial) -> float:
        if next(calls, None) is not None:
            together()
        return trial.suggest_float("x", 0, 1)

    with plain(url) as storage:
        study = optuna.load_study(storage=storage, study_name=NAME, sampler=optuna.samplers.RandomSampler(seed=rank))
        study.optimize(objective, callbacks=[MaxTrialsCallback(ASKED, states=(TrialState.COMPLETE,))])


def test_four_workers_finish_more_trials_than_max_trials_callback_allows(sqlite_url: str, crew: Crew) -> None:
    with plain(sqlite_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)

        crew.run(WORKERS, optimize_in_step, sqlite_url)

        finished = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(finished) >= 3 * WORKERS > ASKED


def ask_at_once(rank: int, together: Together, url: str) -> tuple[int, float]:  # noqa: ARG001 - all alike
    """Pop a trial, holding back the write until all have read that it waits."""

    def before_write(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("UPDATE trials SET state"):
            together()

    with plain(url) as storage:
        study = optuna.load_study(storage=storage, study_name=NAME)
        event.listen(storage.engine, "before_cursor_execute", before_write)
        trial = study.ask()
        event.remove(storage.engine, "before_cursor_execute", before_write)
        return trial.number, trial.suggest_float("x", 0, 1)


def test_two_workers_on_sqlite_both_get_the_one_enqueued_trial(sqlite_url: str, crew: Crew) -> None:
    with plain(sqlite_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        study.enqueue_trial({"x": 0.25})

        answers = crew.run(2, ask_at_once, sqlite_url)

        trials = study.trials
    assert answers == [(0, 0.25), (0, 0.25)]
    assert len(trials) == 1
