"""What the ledger promises, on SQLite and PostgreSQL, with real processes that are really killed."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, event, func, select
from sqlalchemy.exc import OperationalError

from search.errors import CodeChanged, StudyNotFound
from search.ledger import LOSSES, Claim, Ledger, Progress, ask
from search.slots import Done, Wait
from search.storage import close, connect
from search.tables import BUDGETS, CLAIMS, ENQUEUED
from tests.crew import Crew, Together

NAME = "contract"


class Bench(NamedTuple):
    study: optuna.Study
    ledger: Ledger


class Run(NamedTuple):
    """A line of the log that the workers append to."""

    number: int
    attempt: int
    outcome: str
    x: str


@contextmanager
def bench(url: str) -> Iterator[Bench]:
    storage = connect(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage, study_name=NAME, load_if_exists=True, sampler=optuna.samplers.RandomSampler()
    )
    try:
        yield Bench(study, Ledger(storage, study._study_id))
    finally:
        close(storage)


@pytest.fixture
def here(storage_url: str) -> Iterator[Bench]:
    with bench(storage_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.end()


def claimed(answer: Claim | Wait | Done) -> Claim:
    assert isinstance(answer, Claim)
    return answer


def frozen(bench: Bench, trial_id: int) -> FrozenTrial:
    return bench.study._storage.get_trial(trial_id)


def number_of_rows(bench: Bench, table: Table) -> int:
    with bench.ledger._storage.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def read(log: Path) -> list[Run]:
    rows = [line.split() for line in log.read_text().splitlines()]
    return [Run(int(number), int(attempt), outcome, x) for number, attempt, outcome, x in rows]


def write(log: Path, run: Run) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{run.number} {run.attempt} {run.outcome} {run.x}\n".encode())
    os.close(descriptor)


def outcome_of(claim: Claim) -> str:
    """One trial in five raises at its first attempt, one in eleven always; a third of the rest is pruned."""
    if claim.number % 11 == 7 or (claim.number % 5 == 2 and claim.attempt == 1):
        return "raised"
    return "pruned" if claim.number % 3 == 0 else "complete"


def work_until_done(opened: Bench, *, worker: str, log: Path, together: Together) -> None:
    study, ledger = opened
    together()
    while not isinstance(answer := ledger.claim(worker), Done):
        if isinstance(answer, Wait):
            time.sleep(0.02)  # asking without pause would keep those from finishing for whom it waits
            continue
        trial = ask(study, answer)
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, step=1)
        outcome = outcome_of(answer)
        write(log, Run(answer.number, answer.attempt, outcome, repr(x)))
        match outcome:
            case "raised":
                ledger.fail(answer.trial_id, worker=worker, reason="the objective raised")
            case "pruned":
                assert ledger.finish(answer.trial_id, worker=worker, state=TrialState.PRUNED, value=None)
            case _:
                assert ledger.finish(answer.trial_id, worker=worker, state=TrialState.COMPLETE, value=x)


def work(rank: int, together: Together, url: str, log: Path) -> None:
    with bench(url) as opened:
        work_until_done(opened, worker=f"worker {rank}", log=log, together=together)


def check_log_against_study(runs: list[Run], study: optuna.Study) -> None:
    attempts = Counter((run.number, run.attempt) for run in runs)
    assert set(attempts.values()) == {1}
    assert len({(run.number, run.x) for run in runs}) == len({run.number for run in runs})
    ends = {run.number: run for run in sorted(runs, key=lambda run: run.attempt)}
    states = {"raised": TrialState.FAIL, "pruned": TrialState.PRUNED, "complete": TrialState.COMPLETE}
    trials = study.get_trials()
    assert {t.number: t.state for t in trials} == {n: states[run.outcome] for n, run in ends.items()}
    for trial in trials:
        assert trial.params == {"x": float(ends[trial.number].x)}
        if trial.state != TrialState.FAIL:
            assert trial.value == trial.params["x"]


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 16])
def test_forty_trials_asked_are_forty_trials_finished_and_none_is_run_twice(
    storage_url: str, here: Bench, crew: Crew, tmp_path: Path, workers: int
) -> None:
    budget_id = here.ledger.open_budget(40)

    crew.run(workers, work, storage_url, tmp_path / "log")

    runs = read(tmp_path / "log")
    assert sum(run.outcome != "raised" for run in runs) == 40
    assert {run.outcome for run in runs} == {"raised", "pruned", "complete"}
    check_log_against_study(runs, here.study)
    failed = sum(t.state == TrialState.FAIL for t in here.study.trials)
    assert failed >= 3  # numbers 7, 18 and 29 always raise: three attempts each, then others take their places
    assert all(len(t.user_attrs["failure"]) == 3 for t in here.study.get_trials(states=(TrialState.FAIL,)))
    assert here.ledger.remaining(budget_id) == Progress(
        asked=40, finished=40, running=0, failed=failed, waiting=0, closed=True
    )


ROUNDS, A_ROUND = 20, 7


def work_in_rounds(rank: int, together: Together, url: str, log: Path) -> None:
    with bench(url) as opened:
        for _ in range(ROUNDS):
            if rank == 0:
                opened.ledger.open_budget(A_ROUND)
            work_until_done(opened, worker=f"worker {rank}", log=log, together=together)
            together()  # nobody asks for more while another still works on this round


def test_twenty_budgets_in_a_row_are_each_exact(storage_url: str, here: Bench, crew: Crew, tmp_path: Path) -> None:
    crew.run(4, work_in_rounds, storage_url, tmp_path / "log")

    runs = read(tmp_path / "log")
    assert sum(run.outcome != "raised" for run in runs) == ROUNDS * A_ROUND
    check_log_against_study(runs, here.study)
    budgets = [here.ledger.remaining(budget_id) for budget_id in range(1, ROUNDS + 1)]
    assert [(b.finished, b.closed) for b in budgets] == [(A_ROUND, True)] * ROUNDS


def claim_then_hang(rank: int, together: Together, url: str, log: Path) -> None:  # noqa: ARG001 - alone
    with bench(url) as opened:
        claim = claimed(opened.ledger.claim("doomed"))
        trial = ask(opened.study, claim)
        x = trial.suggest_float("x", 0, 1)
        trial.report(0.5, step=0)
        write(log, Run(claim.number, claim.attempt, "killed", repr(x)))
        os.kill(os.getpid(), signal.SIGKILL)


def killed(url: str, log: Path) -> Run:
    """Have a process of its own claim a trial, suggest, report, and be killed; what it wrote last."""
    process = multiprocessing.get_context("spawn").Process(target=claim_then_hang, args=(0, None, url, log))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    process.close()
    return read(log)[-1]


def test_a_killed_workers_trial_is_claimed_again_exactly_once_with_its_parameters(
    storage_url: str, here: Bench, crew: Crew, tmp_path: Path
) -> None:
    budget_id = here.ledger.open_budget(7)
    dead = killed(storage_url, tmp_path / "log")
    before = here.ledger.remaining(budget_id)
    assert (before.running, before.finished) == (1, 0)

    here.ledger.give_back(["doomed"])
    crew.run(4, work, storage_url, tmp_path / "log")

    runs = read(tmp_path / "log")
    again = [run for run in runs if run.number == dead.number and run.attempt == dead.attempt + 1]
    assert [run.x for run in again] == [dead.x]
    check_log_against_study(runs, here.study)
    assert here.ledger.remaining(budget_id).finished == 7
    trial = here.study.trials[dead.number]
    assert trial.intermediate_values[0] == 0.5  # the first attempt's report stays
    assert trial.user_attrs["failure"] == ["lost: worker doomed ended"]


def enqueue_five(rank: int, together: Together, url: str) -> list[int | None]:  # noqa: ARG001 - all alike
    with bench(url) as opened:
        together()
        return [opened.ledger.enqueue(f"paper/{k}", params={"x": k / 10}, user_attrs={"paper": k}) for k in range(5)]


def test_processes_that_enqueue_the_same_five_keys_at_once_make_five_trials(
    storage_url: str, here: Bench, crew: Crew
) -> None:
    answers = crew.run(4, enqueue_five, storage_url)

    made = [trial_id for answer in answers for trial_id in answer if trial_id is not None]
    assert sorted(made) == sorted(t._trial_id for t in here.study.trials)
    trials = sorted(here.study.trials, key=lambda t: t.user_attrs["paper"])
    assert [t.system_attrs for t in trials] == [{"fixed_params": {"x": k / 10}} for k in range(5)]
    assert {t.state for t in trials} == {TrialState.WAITING}


def open_fresh(rank: int, together: Together, url: str) -> int:
    together()
    with bench(url) as opened:
        return opened.ledger.enqueue(str(rank), params={}, user_attrs={}) or -1


def test_sixteen_processes_may_open_a_fresh_database_at_once(storage_url: str, crew: Crew) -> None:
    made = crew.run(16, open_fresh, storage_url)

    with bench(storage_url) as opened:
        assert sorted(made) == sorted(t._trial_id for t in opened.study.trials)
        assert [t.number for t in opened.study.trials] == list(range(16))


def test_an_enqueued_trial_comes_first_and_takes_its_parameters(here: Bench) -> None:
    here.ledger.open_budget(2)
    made = here.ledger.enqueue("paper/2", params={"x": 0.25}, user_attrs={"paper": 2})

    first, second = (claimed(here.ledger.claim("w")) for _ in range(2))

    assert first.trial_id == made
    assert ask(here.study, first).suggest_float("x", 0, 1) == 0.25
    assert "fixed_params" not in frozen(here, second.trial_id).system_attrs


def test_a_reclaimed_trial_keeps_the_parameters_it_had_suggested(here: Bench) -> None:
    here.ledger.open_budget(1)
    trial = ask(here.study, claimed(here.ledger.claim("first")))
    before = (trial.suggest_float("lr", 1e-5, 1e-2, log=True), trial.suggest_categorical("o", ["a", "b"]))

    again = claimed(here.ledger.claim("second", grace=0))

    assert (again.trial_id, again.attempt) == (trial._trial_id, 2)
    trial = ask(here.study, again)
    assert (
        trial.suggest_float("lr", 1e-5, 1e-2, log=True),
        trial.suggest_categorical("o", ["a", "b"]),
    ) == before
    assert trial.suggest_int("new", 0, 3) in range(4)


def test_a_worker_that_lost_its_trial_can_change_nothing_of_it(here: Bench) -> None:
    here.ledger.open_budget(1)
    lost = claimed(here.ledger.claim("slow"))
    claimed(here.ledger.claim("quick", grace=0))
    before = frozen(here, lost.trial_id)
    ours = {"worker": "slow"}

    assert not here.ledger.beat(lost.trial_id, **ours)
    assert not here.ledger.finish(lost.trial_id, worker="slow", state=TrialState.COMPLETE, value=0.1)
    assert not here.ledger.release(lost.trial_id, **ours)
    assert not here.ledger.fail(lost.trial_id, reason="too late", **ours)

    assert frozen(here, lost.trial_id) == before
    assert here.ledger.beat(lost.trial_id, worker="quick")
    assert here.ledger.finish(lost.trial_id, worker="quick", state=TrialState.COMPLETE, value=0.2)
    assert not here.ledger.finish(lost.trial_id, worker="slow", state=TrialState.COMPLETE, value=0.1)
    assert frozen(here, lost.trial_id).value == 0.2


def test_finishing_again_after_a_lost_answer_is_true_and_changes_nothing(here: Bench) -> None:
    here.ledger.open_budget(1)
    claim = claimed(here.ledger.claim("w"))
    assert here.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=0.2)
    before = frozen(here, claim.trial_id)

    assert here.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=0.2)
    assert not here.ledger.finish(claim.trial_id, worker="w", state=TrialState.PRUNED, value=None)

    assert frozen(here, claim.trial_id) == before


def test_a_beating_worker_keeps_its_trial(here: Bench) -> None:
    here.ledger.open_budget(1)
    claim = claimed(here.ledger.claim("w"))
    assert here.ledger.beat(claim.trial_id, worker="w")

    assert here.ledger.claim("other", grace=60) == Wait()

    assert here.ledger.finish(claim.trial_id, worker="w", state=TrialState.PRUNED, value=None)
    assert frozen(here, claim.trial_id).value is None  # nothing was reported


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_no_finite_number_never_enters_the_study(here: Bench, value: float | None) -> None:
    here.ledger.open_budget(1)
    claim = claimed(here.ledger.claim("w"))

    with pytest.raises(ValueError, match=r"a finite number, not|needs a value"):
        here.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=value)

    assert frozen(here, claim.trial_id).state == TrialState.RUNNING
    ask(here.study, claim).report(math.nan, step=3)
    assert here.ledger.finish(claim.trial_id, worker="w", state=TrialState.PRUNED, value=None)
    assert frozen(here, claim.trial_id).values is None


def test_a_trial_finishes_only_as_complete_or_pruned(here: Bench) -> None:
    with pytest.raises(ValueError, match="as COMPLETE or PRUNED, not FAIL"):
        here.ledger.finish(1, worker="w", state=TrialState.FAIL, value=None)


def test_a_pruned_trial_has_its_last_report_as_value(here: Bench) -> None:
    here.ledger.open_budget(1)
    claim = claimed(here.ledger.claim("w"))
    trial = ask(here.study, claim)
    for step, value in [(1, 0.5), (3, 0.375), (2, 0.25)]:
        trial.report(value, step=step)

    here.ledger.finish(claim.trial_id, worker="w", state=TrialState.PRUNED, value=None)

    assert frozen(here, claim.trial_id).value == 0.375


def test_a_released_trial_waits_and_its_attempt_does_not_count(here: Bench) -> None:
    here.ledger.open_budget(1)
    for turn in range(5):  # more often than there are attempts
        claim = claimed(here.ledger.claim(f"w{turn}"))
        assert (claim.number, claim.attempt) == (0, 1)
        assert here.ledger.release(claim.trial_id, worker=f"w{turn}")
        assert not here.ledger.release(claim.trial_id, worker=f"w{turn}")
    assert frozen(here, claim.trial_id).state == TrialState.WAITING
    assert "failure" not in frozen(here, claim.trial_id).user_attrs


def test_a_trial_is_given_up_after_its_last_attempt_and_another_takes_its_place(here: Bench) -> None:
    budget_id = here.ledger.open_budget(1)
    again = []
    for attempt in (1, 2, 3):
        claim = claimed(here.ledger.claim("w"))
        assert (claim.number, claim.attempt) == (0, attempt)
        again.append(here.ledger.fail(claim.trial_id, worker="w", reason=f"reason {attempt}"))

    assert again == [True, True, False]
    trial = frozen(here, claim.trial_id)
    assert (trial.state, trial.user_attrs["failure"]) == (
        TrialState.FAIL,
        ["reason 1", "reason 2", "reason 3"],
    )
    assert trial.datetime_complete is not None
    assert here.ledger.remaining(budget_id).failed == 1
    assert claimed(here.ledger.claim("w")).number == 1


def test_a_trial_whose_workers_fall_silent_is_given_up_only_after_many_without_a_new_report(here: Bench) -> None:
    here.ledger.open_budget(1)
    for attempt in range(1, LOSSES + 1):
        claim = claimed(here.ledger.claim("w", grace=0))
        assert (claim.number, claim.attempt) == (0, attempt)
    ask(here.study, claim).report(0.5, step=1)  # this one came further, so they are counted anew
    for attempt in range(LOSSES + 1, 2 * LOSSES + 1):
        claim = claimed(here.ledger.claim("w", grace=0))
        assert (claim.number, claim.attempt) == (0, attempt)

    assert claimed(here.ledger.claim("w", grace=0)).number == 1

    trial = here.study.trials[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["failure"] == ["lost: worker w fell silent"] * 10


def test_losses_leave_a_trial_its_retries(here: Bench) -> None:
    here.ledger.open_budget(1)
    for _ in range(5):
        claim = claimed(here.ledger.claim("w", grace=0))
    assert here.ledger.fail(claim.trial_id, worker="w", reason="first")

    assert claimed(here.ledger.claim("w")).trial_id == claim.trial_id


def drop_the_answer_to_a_commit(bench: Bench, *, of: int) -> None:
    """Let the database commit, and the connection die before it says so, the given number of times from now."""
    left = [of]

    @event.listens_for(bench.ledger._storage.engine, "commit")
    def _lose(connection: Connection) -> None:
        if left[0]:
            left[0] -= 1
            connection.connection.commit()
            raise OperationalError("COMMIT", {}, Exception("connection lost"))


def test_what_was_done_before_the_connection_was_lost_is_not_done_twice(here: Bench) -> None:
    drop_the_answer_to_a_commit(here, of=1)
    budget_id = here.ledger.open_budget(5)
    assert here.ledger.remaining(budget_id).asked == 5
    assert number_of_rows(here, BUDGETS) == 1

    drop_the_answer_to_a_commit(here, of=2)
    claim = claimed(here.ledger.claim("w"))
    assert (claim.number, claim.attempt, here.ledger.remaining(budget_id).running) == (0, 1, 1)

    drop_the_answer_to_a_commit(here, of=1)
    assert here.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=1.0)
    drop_the_answer_to_a_commit(here, of=1)
    here.ledger.enqueue("k", params={}, user_attrs={})
    assert [trial.state for trial in here.study.trials] == [TrialState.COMPLETE, TrialState.WAITING]


def test_a_budget_whose_run_fell_silent_gives_no_more_trials_to_workers_elsewhere(here: Bench) -> None:
    own, anybodys = here.ledger.open_budget(5, own=True), here.ledger.open_budget(1)
    assert claimed(here.ledger.claim("w", grace=60)).budget_id == own
    here.ledger.keep_budget(own)
    assert claimed(here.ledger.claim("w", grace=60)).budget_id == own

    time.sleep(0.1)

    assert claimed(here.ledger.claim("w", grace=0.05)).budget_id == anybodys
    assert here.ledger.remaining(own).closed
    assert not here.ledger.remaining(anybodys).closed


def test_nobody_is_lost_who_could_not_be_heard(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("search.ledger.now", lambda _session: clock[0])
    here.ledger.open_budget(9)
    first = claimed(here.ledger.claim("first", grace=120))
    assert isinstance(here.ledger.claim("second", grace=120), Claim)
    clock[0] += 3600  # the laptop slept, or the database was away, for all of them

    third = claimed(here.ledger.claim("third", grace=120))
    assert third.trial_id != first.trial_id  # nobody is taken to be dead
    clock[0] += 15
    assert here.ledger.beat(first.trial_id, worker="first")
    clock[0] += 46

    assert claimed(here.ledger.claim("fourth", grace=120)).number == 1  # the second's, who never spoke again
    assert here.ledger.beat(first.trial_id, worker="first")


def test_workers_of_two_versions_do_not_train_at_the_same_time(here: Bench) -> None:
    here.ledger.open_budget(9)
    old = claimed(here.ledger.claim("old", code="1.0"))
    assert isinstance(here.ledger.claim("as old", code="1.0"), Claim)
    with pytest.raises(CodeChanged, match=r"with 1\.0; this one is 2\.0"):
        here.ledger.claim("new", code="2.0")
    here.ledger.give_back(["as old"])
    assert here.ledger.finish(old.trial_id, worker="old", state=TrialState.COMPLETE, value=1.0)

    assert isinstance(here.ledger.claim("new", code="2.0"), Claim)
    with pytest.raises(CodeChanged):
        here.ledger.claim("old", code="1.0")


def test_the_list_of_workers_shows_who_is_there_and_forgets_who_fell_silent(here: Bench) -> None:
    here.ledger.open_budget(2)
    here.ledger.enlist("a", {"host": "one"})
    here.ledger.enlist("b", {"host": "two"})
    claim = claimed(here.ledger.claim("a"))
    here.ledger.enlist("a", {"host": "three"})
    assert [(worker.name, worker.about["host"]) for worker in here.ledger.workers()] == [("a", "three"), ("b", "two")]
    assert all(0 <= worker.silent < 60 for worker in here.ledger.workers())

    here.ledger.give_back(["b"])
    assert [worker.name for worker in here.ledger.workers()] == ["a"]
    assert here.ledger.recover(grace=60) == 0
    time.sleep(0.02)
    assert here.ledger.recover(grace=0.01) == 1
    assert here.ledger.workers() == []
    assert frozen(here, claim.trial_id).state == TrialState.WAITING


def test_what_was_given_up_can_be_enqueued_again(here: Bench) -> None:
    ledger = Ledger(here.ledger._storage, here.study._study_id, retries=0)
    ledger.open_budget(2)
    first = ledger.enqueue("paper 1", params={"x": 0.5}, user_attrs={"paper": 1})
    claim = claimed(ledger.claim("w"))
    assert not ledger.fail(claim.trial_id, worker="w", reason="no luck")

    second = ledger.enqueue("paper 1", params={"x": 0.5}, user_attrs={"paper": 1})

    assert second not in (None, first)
    assert ledger.enqueue("paper 1", params={"x": 0.5}, user_attrs={"paper": 1}) is None
    assert claimed(ledger.claim("w")).trial_id == second


def test_a_closed_budget_gives_no_trial_and_lets_the_running_one_finish(here: Bench) -> None:
    budget_id = here.ledger.open_budget(3)
    running, released = (claimed(here.ledger.claim("w")) for _ in range(2))

    here.ledger.close_budget(budget_id)
    here.ledger.release(released.trial_id, worker="w")

    assert here.ledger.claim("w", budget_id=budget_id) == Done()
    assert here.ledger.claim("w") == Done()
    assert here.ledger.finish(running.trial_id, worker="w", state=TrialState.COMPLETE, value=1.0)
    assert here.ledger.remaining(budget_id) == Progress(
        asked=3, finished=1, running=0, failed=0, waiting=1, closed=True
    )
    # The next budget goes on with what was released.
    next_id = here.ledger.open_budget(1)
    claim = claimed(here.ledger.claim("w", budget_id=next_id))
    assert (claim.trial_id, claim.budget_id) == (released.trial_id, next_id)


def test_a_full_budget_waits_and_another_open_one_is_used(here: Bench) -> None:
    first, second = here.ledger.open_budget(1), here.ledger.open_budget(1)
    assert claimed(here.ledger.claim("a")).budget_id == first

    assert here.ledger.claim("b", budget_id=first) == Wait()
    assert claimed(here.ledger.claim("b")).budget_id == second
    assert here.ledger.claim("c") == Wait()


def test_a_lost_trial_frees_its_slot_even_for_another_budget(here: Bench) -> None:
    first, second = here.ledger.open_budget(1), here.ledger.open_budget(1)
    lost = claimed(here.ledger.claim("a", budget_id=first))
    here.ledger.give_back(["a"])

    assert claimed(here.ledger.claim("b", budget_id=second)).trial_id == lost.trial_id
    assert claimed(here.ledger.claim("c", budget_id=first)).number == lost.number + 1
    assert here.ledger.claim("d") == Wait()


def test_a_trial_that_plain_optuna_asked_for_is_left_alone(here: Bench) -> None:
    budget_id = here.ledger.open_budget(1)
    foreign = here.study.ask()

    assert claimed(here.ledger.claim("w", grace=0)).number == foreign.number + 1

    assert frozen(here, foreign._trial_id).state == TrialState.RUNNING
    assert here.ledger.remaining(budget_id).running == 1


def test_another_process_sees_that_a_trial_went_back_to_waiting(storage_url: str, here: Bench) -> None:
    here.ledger.open_budget(1)
    with bench(storage_url) as other:
        claim = claimed(here.ledger.claim("w"))
        seen = [other.study.trials[0].state]
        here.ledger.release(claim.trial_id, worker="w")
        seen.append(other.study.trials[0].state)
    assert seen == [TrialState.RUNNING, TrialState.WAITING]


def test_an_unknown_budget_is_a_key_error_and_gives_no_trial(here: Bench) -> None:
    with pytest.raises(KeyError):
        here.ledger.remaining(77)
    assert here.ledger.claim("w", budget_id=77) == Done()
    with pytest.raises(ValueError, match="at least 1 trial, not 0"):
        here.ledger.open_budget(0)


@pytest.mark.parametrize("by", ["ours", "plain optuna"])
def test_deleting_the_study_removes_our_rows(storage_url: str, here: Bench, by: str) -> None:
    here.ledger.open_budget(2)
    here.ledger.enqueue("paper/1", params={}, user_attrs={})
    claimed(here.ledger.claim("w"))
    if by == "ours":
        optuna.delete_study(study_name=NAME, storage=here.study._storage)
    else:  # as the dashboard does, without our settings of the connection
        plain = optuna.storages.RDBStorage(storage_url.replace("postgresql:", "postgresql+psycopg:"))
        optuna.delete_study(study_name=NAME, storage=plain)
        plain.engine.dispose()

    engine = here.ledger._storage.engine
    with engine.connect() as connection:
        rows = [connection.scalar(select(func.count()).select_from(t)) for t in (BUDGETS, CLAIMS, ENQUEUED)]
    assert rows == [0, 0, 0]
    with pytest.raises(StudyNotFound, match=r"There is no study .* holds no study yet"):
        here.ledger.claim("w")
