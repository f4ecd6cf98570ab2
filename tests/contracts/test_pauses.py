"""What becomes of trials that pause, on SQLite and PostgreSQL: exact budgets, the best go on, none waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from search.declaration import built_in
from search.ledger import Claim, ask
from search.options import Promote
from search.promotion import goes_on, plan, rung_epochs, rungs
from search.slots import Done, Plan, Wait
from search.trials import paused_at
from tests.contracts.opened import Opened, ours

STUDY = replace(built_in("default"), epochs=12, pruner=Promote(min_resource=1, reduction_factor=3))


@pytest.fixture
def here(storage_url: str) -> Iterator[Opened]:
    with ours(storage_url) as opened:
        yield opened


def planned(here: Opened, left: float = float("inf")) -> Plan:
    made = plan(here.study.get_trials(deepcopy=False), STUDY, left=left)
    assert made is not None
    return made


def loss(number: int, epoch: int) -> float:
    """Curves that never cross; trial 7 is the best of ten, then 14 of twenty, ..."""
    return (number * 7 % 10 + number / 100 + 1) / epoch


def train(here: Opened, claim: Claim, *, worker: str = "w") -> int:
    """Report from where the trial was until it pauses or ends, as a worker does; its last epoch."""
    trial = ask(here.study, claim)
    done = here.study.get_trials(deepcopy=False)[claim.number].last_step or 0
    for epoch in range(done + 1, STUDY.epochs + 1):
        trial.report(loss(claim.number, epoch), epoch)
        if epoch in rung_epochs(STUDY) and not goes_on(
            here.study.get_trials(deepcopy=False), claim.number, epoch, STUDY
        ):
            assert here.ledger.pause(claim.trial_id, worker=worker)
            return epoch
    assert here.ledger.finish(
        claim.trial_id, worker=worker, state=TrialState.COMPLETE, value=loss(claim.number, STUDY.epochs)
    )
    return STUDY.epochs


def claim(here: Opened, budget_id: int, *, worker: str = "w") -> Claim | Wait | Done:
    return here.ledger.claim(worker, budget_id=budget_id, plan=planned(here))


def search(here: Opened, budget_id: int) -> list[tuple[int, int]]:
    """Work alone until the budget is done: each claim's trial, and how far it came."""
    done = []
    while isinstance(answer := claim(here, budget_id), Claim):
        done.append((answer.number, train(here, answer)))
    assert answer == Done()
    return done


def test_a_budget_ends_exactly_and_the_best_of_each_rung_go_on(here: Opened) -> None:
    budget_id = here.ledger.open_budget(30)
    steps = search(here, budget_id)

    trials = here.study.get_trials()
    assert len(trials) == 30
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert here.ledger.remaining(budget_id).finished == 30
    assert rung_epochs(STUDY) == [1, 3]
    first, second = rungs(trials, STUDY)
    assert len(first.reached) == 30
    # Of curves that never cross the best third went on, but for those that were among the best when they came.
    assert 10 <= len(second.reached) <= 16
    through = {trial.number for trial in trials if trial.last_step == 12}
    best = sorted(range(30), key=lambda number: loss(number, 12))
    assert set(best[:3]) <= through
    assert here.study.best_trial.number == best[0]
    for trial in trials:
        epochs = sorted(trial.intermediate_values)
        assert epochs == list(range(1, len(epochs) + 1))
        assert trial.value == trial.intermediate_values[epochs[-1]]
    promoted = [number for number, _ in steps if [one for one, _ in steps].count(number) > 1]
    assert promoted  # some did pause, and went on later


def test_of_a_budget_too_small_for_a_quota_one_trial_still_comes_to_its_end(here: Opened) -> None:
    steps = search(here, here.ledger.open_budget(2))
    assert [trial.state for trial in here.study.trials].count(TrialState.COMPLETE) == 1
    assert here.study.best_trial.number == 0
    assert steps == [(0, 1), (1, 1), (0, 3), (0, 12)]


def test_a_paused_trial_is_no_part_of_the_queue_and_keeps_its_slot(here: Opened) -> None:
    budget_id = here.ledger.open_budget(2)
    first = claim(here, budget_id)
    assert isinstance(first, Claim)
    assert train(here, first) == 1
    assert here.ledger.pause(first.trial_id, worker="w")  # said twice, as the answer was lost
    assert not here.ledger.pause(first.trial_id, worker="another")
    assert not here.ledger.finish(first.trial_id, worker="w", state=TrialState.COMPLETE, value=0.0)

    [trial] = here.study.get_trials()
    assert (trial.state, paused_at(trial)) == (TrialState.WAITING, 1)
    stands = here.ledger.remaining(budget_id)
    assert (stands.running, stands.paused, stands.waiting, stands.finished) == (0, 1, 0, 0)
    second = claim(here, budget_id)
    assert isinstance(second, Claim)
    assert (second.number, second.left) == (1, 0)
    assert claim(here, budget_id, worker="another") == Wait()  # 1 may yet tell something of 0


def test_nobody_gives_up_trials_that_paused_after_the_plan_was_made(here: Opened) -> None:
    budget_id = here.ledger.open_budget(2)
    claims = [claim(here, budget_id, worker=worker) for worker in "ab"]
    early = planned(here)
    for one, worker in zip(claims, "ab", strict=True):
        assert isinstance(one, Claim)
        train(here, one, worker=worker)
    assert here.ledger.claim("a", budget_id=budget_id, plan=early) == Wait()
    answer = claim(here, budget_id)
    assert isinstance(answer, Claim)
    assert answer.number == 0


def test_a_worker_without_a_plan_ends_what_others_paused(here: Opened) -> None:
    budget_id = here.ledger.open_budget(1)
    first = claim(here, budget_id)
    assert isinstance(first, Claim)
    train(here, first)
    assert here.ledger.claim("w", budget_id=budget_id) == Done()
    [trial] = here.study.trials
    assert (trial.state, trial.value) == (TrialState.PRUNED, loss(0, 1))
    assert here.ledger.remaining(budget_id).closed


def test_the_next_budget_takes_over_what_an_interrupted_one_left_paused(here: Opened) -> None:
    budget_id = here.ledger.open_budget(30)
    for _ in range(6):
        answer = claim(here, budget_id)
        assert isinstance(answer, Claim)
        train(here, answer)
    here.ledger.close_budget(budget_id)
    finished = here.ledger.remaining(budget_id).finished
    assert claim(here, budget_id) == Done()
    assert any(paused_at(trial) for trial in here.study.trials)

    search(here, here.ledger.open_budget(10))
    trials = here.study.get_trials()
    assert len([trial for trial in trials if trial.state.is_finished()]) == finished + 10
    assert not any(paused_at(trial) for trial in trials)


def test_a_promoted_trial_whose_worker_falls_silent_is_claimed_again(here: Opened) -> None:
    budget_id = here.ledger.open_budget(1)
    first = claim(here, budget_id)
    assert isinstance(first, Claim)
    train(here, first)
    again = claim(here, budget_id, worker="dies")
    assert isinstance(again, Claim)
    assert (again.trial_id, again.attempt) == (first.trial_id, 2)
    here.ledger.give_back(["dies"])
    third = claim(here, budget_id)
    assert isinstance(third, Claim)
    assert (third.trial_id, third.attempt) == (first.trial_id, 3)


def test_a_trial_that_those_to_come_cannot_help_is_given_up(here: Opened) -> None:
    budget_id = here.ledger.open_budget(6)
    for _ in range(4):
        answer = here.ledger.claim("w", budget_id=budget_id, plan=None)
        assert isinstance(answer, Claim)
        train(here, answer)
    costs = {trial.number: loss(trial.number, 1) for trial in here.study.trials}
    worst = here.study.trials[max(costs, key=costs.__getitem__)]
    assert planned(here).give_up == ()  # with no end in sight there is hope for all
    assert worst._trial_id in planned(here, left=2).give_up
    here.ledger.claim("w", budget_id=budget_id, plan=planned(here, left=2))
    assert here.study.trials[worst.number].state == TrialState.PRUNED
