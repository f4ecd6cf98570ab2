"""Where a budget has something to do: a trial that waits, a paused one to promote, a new one; within a transaction.

Not here: the transactions, and who asks (ledger.py); which paused trial goes on (promotion.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.trial import TrialState
from sqlalchemy import Column, Row, Select, func, select, update
from sqlalchemy.orm import Session

from search.tables import BUDGETS, CLAIMS, Trial, last_report, now, states
from search.trials import Trials


@dataclass(frozen=True, slots=True)
class Desk:
    """A transaction that holds a study's row."""

    session: Session
    storage: Trials
    study_id: int
    draws: bool  # whether new trials are begun once the queue is empty


@dataclass(frozen=True, slots=True)
class Slot:
    """Where there is something to do."""

    budget_id: int
    left: int  # trials of the budget that are still to begin, once this one has
    promoted: Trial | None = None  # the paused trial that goes on; else one of the queue, or a new one


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of paused trials, as a worker that has read the study sees it; trials by Optuna's id."""

    promote: tuple[int, ...] = ()  # the best first
    last: tuple[int, ...] = ()  # to go on only where nothing else is left to do
    give_up: tuple[int, ...] = ()  # to be pruned
    paused: tuple[tuple[int, int], ...] = ()  # all that are known, the best first, and the step at which each paused


@dataclass(frozen=True, slots=True)
class Wait:
    """All that remains is running elsewhere; it may come back, so ask again in a while."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to claim: the budget is finished or closed, or there is none."""


def next_slot(at: Desk, budget_id: int | None, plan: Plan | None) -> Slot | Wait | Done:
    """Look for something to do in a budget, or in any open one; close those where nothing is left."""
    where = (BUDGETS.c.study_id == at.study_id) & BUDGETS.c.closed.is_(False)
    if budget_id is not None:
        where &= BUDGETS.c.budget_id == budget_id
    answer: Wait | Done = Done()
    for budget in at.session.execute(select(BUDGETS).where(where).order_by(BUDGETS.c.budget_id)).all():
        slot = _slot(at, budget, plan)
        if isinstance(slot, Slot):
            return slot
        if isinstance(slot, Done):
            change(at, budget.budget_id, closed=True)
        else:
            answer = slot
    return answer


def _slot(at: Desk, budget: Row[Any], plan: Plan | None) -> Slot | Wait | Done:
    budget_id, ending = budget.budget_id, budget.from_epoch is not None
    counts = states(at.session, budget_id)
    running = counts.get(TrialState.RUNNING, 0)
    left = budget.trials - running - counts.get(TrialState.WAITING, 0) - finished_of(counts)
    left -= _adopt(at, budget_id, left)
    slot = _begun(at, budget, plan, left) if ending else _any(at, budget_id, plan, left)
    if slot is not None:
        return slot
    if running:
        return Wait()
    known = _all_paused(at, budget_id)
    if plan is not None and not known.items() <= set(plan.paused):
        return Wait()  # others have paused since
    if not ending and plan is not None and (trial := _paused(at, budget_id, plan.last)) is not None:
        return Slot(budget_id, left, trial)
    if not ending or TrialState.COMPLETE in counts:  # else a longer budget may make something of them
        give_up(at, known)
    return Done()


def _any(at: Desk, budget_id: int, plan: Plan | None, left: int) -> Slot | None:
    if left > 0 and at.session.execute(queue(at).limit(1)).first() is not None:
        return Slot(budget_id, left - 1)
    if plan is not None and (trial := _paused(at, budget_id, plan.promote)) is not None:
        return Slot(budget_id, left, trial)
    return Slot(budget_id, left - 1) if left > 0 and at.draws else None


def _begun(at: Desk, budget: Row[Any], plan: Plan | None, left: int) -> Slot | None:
    """Go on with what has come far enough, the best first."""
    far = [trial_id for trial_id, step in plan.paused if step >= budget.from_epoch] if plan is not None else []
    if (trial := _paused(at, budget.budget_id, far)) is not None:
        return Slot(budget.budget_id, left, trial)
    if left > 0 and (trial := _put_back(at, budget.from_epoch)) is not None:
        return Slot(budget.budget_id, left - 1, trial)
    return None


def _adopt(at: Desk, budget_id: int, room: int) -> int:
    """Take over paused trials of budgets that were closed before, those farthest on first."""
    closed = select(BUDGETS.c.budget_id).where(BUDGETS.c.study_id == at.study_id, BUDGETS.c.closed)
    orphans = _claims(at, CLAIMS.c.trial_id).where(CLAIMS.c.budget_id.in_(closed))
    orphans = orphans.order_by(CLAIMS.c.paused_at.desc(), CLAIMS.c.trial_id).limit(max(0, room))
    found = at.session.execute(orphans).scalars().all() if room > 0 else []
    if found:
        at.session.execute(update(CLAIMS).where(CLAIMS.c.trial_id.in_(found)).values(budget_id=budget_id))
    return len(found)


def _claims(at: Desk, *columns: Column[Any]) -> Select[Any]:
    """Select the study's paused trials."""
    return select(*columns).where(CLAIMS.c.study_id == at.study_id, CLAIMS.c.paused_at.is_not(None))


def _all_paused(at: Desk, budget_id: int) -> dict[int, int]:
    """By trial, the step at which it paused."""
    rows = _claims(at, CLAIMS.c.trial_id, CLAIMS.c.paused_at).where(CLAIMS.c.budget_id == budget_id)
    return {row[0]: row[1] for row in at.session.execute(rows)}


def _paused(at: Desk, budget_id: int, trial_ids: Sequence[int]) -> Trial | None:
    """Take the first of these that still waits to be promoted."""
    there = _all_paused(at, budget_id) if trial_ids else {}
    return next((trial for one in trial_ids if one in there and (trial := _resumed(at, one)) is not None), None)


def _put_back(at: Desk, from_epoch: int) -> Trial | None:
    """Take a trial of the queue that has come so far."""
    report = models.TrialIntermediateValueModel
    far = queue(at).where(models.TrialModel.trial_id.in_(select(report.trial_id).where(report.step >= from_epoch)))
    found = at.session.execute(far.limit(1)).first()
    return None if found is None else _resumed(at, found[0])


def _resumed(at: Desk, trial_id: int) -> Trial | None:
    """Let a waiting trial run; None where somebody else's does by now."""
    trial = at.session.get_one(models.TrialModel, trial_id, with_for_update=True)
    if trial.state != TrialState.WAITING:
        return None
    trial.state = TrialState.RUNNING
    return trial


def give_up(at: Desk, trial_ids: Iterable[int]) -> None:
    """Prune those of the trials that are paused."""
    ids = list(trial_ids)
    paused = _claims(at, CLAIMS.c.trial_id).where(CLAIMS.c.trial_id.in_(ids))
    for trial_id in at.session.execute(paused).scalars().all() if ids else ():
        trial = at.session.get_one(models.TrialModel, trial_id, with_for_update=True)
        if trial.state == TrialState.WAITING:
            end(at, trial, TrialState.PRUNED, pruned_values(at, trial_id))
        at.session.execute(update(CLAIMS).where(CLAIMS.c.trial_id == trial_id).values(paused_at=None))


def end(at: Desk, trial: Trial, state: TrialState, values: Sequence[float]) -> None:
    """Write how a trial ended, one value an objective or none, and when."""
    for objective, value in enumerate(values):
        at.storage._set_trial_value_without_commit(at.session, trial, objective, value)
    trial.state, trial.datetime_complete = state, moment(now(at.session))


def pruned_values(at: Desk, trial_id: int) -> list[float]:
    """Give the value of a trial that is pruned: its last report, if finite; none in a study of two objectives."""
    last = last_report(at.session, trial_id) if objectives(at) == 1 else None
    return [] if last is None else [last]


def objectives(at: Desk) -> int:
    """Count the study's objectives."""
    direction = models.StudyDirectionModel
    counted = select(func.count()).select_from(direction).where(direction.study_id == at.study_id)
    return int(at.session.execute(counted).scalar_one())


def queue(at: Desk) -> Select[int]:
    """Select the trials that wait to be claimed."""
    trial = models.TrialModel
    waiting = select(trial.trial_id).filter_by(study_id=at.study_id, state=TrialState.WAITING)
    return waiting.where(trial.trial_id.not_in(_claims(at, CLAIMS.c.trial_id)))


def change(at: Desk, budget_id: int, **values: object) -> None:
    """Write into columns of a budget of the study."""
    where = (BUDGETS.c.study_id == at.study_id) & (BUDGETS.c.budget_id == budget_id)
    at.session.execute(update(BUDGETS).where(where).values(values))


def moment(clock: float) -> datetime:
    """Spell the database's time as Optuna's tables hold times."""
    return datetime.fromtimestamp(clock, UTC).astimezone()


def finished_of(counts: Mapping[TrialState, int]) -> int:
    """Count the trials that count against a budget."""
    return counts.get(TrialState.COMPLETE, 0) + counts.get(TrialState.PRUNED, 0)
