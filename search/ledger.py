"""Who runs which trial, and how many more: exact budgets, claims, retries, an idempotent queue.

Plain Optuna counts after a trial, so several workers overshoot, and on SQLite two of them can pop one trial.
Here every step is one transaction that holds the study's row, and every count is read from the trials' own
states. A trial keeps its Optuna id for life: lost or interrupted, it goes from RUNNING back to WAITING with
its parameters and reports. Not here: threads that beat (worker.py); who starts processes (pool.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import optuna
from optuna.storages import RDBStorage
from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.orm import Session

from search.errors import StudyNotFound
from search.storage import transact
from search.tables import BUDGETS, CLAIMS, ENQUEUED, Trial, attempts, last_report, now, put_back, states

FAILURE: Final = "failure"  # user attribute of a trial: why it failed or was lost, oldest first
_REASONS: Final = 10  # how many of them are kept
_REASON_LENGTH: Final = 2000  # characters of each

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial that this worker, and nobody else, runs now."""

    trial_id: int  # Optuna's, unique in the database
    number: int  # unique in the study, from 0
    attempt: int  # counted from 1; an attempt that was released does not count
    budget_id: int


@dataclass(frozen=True, slots=True)
class Wait:
    """All that remains is running elsewhere; it may come back, so ask again in a while."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to claim: the budget is finished or closed, or there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a budget stands."""

    asked: int  # trials that are to finish
    finished: int  # complete or pruned
    running: int
    failed: int  # given up after their last attempt; they do not count against the budget
    waiting: int  # trials of the study, of any origin, that wait to be claimed
    closed: bool  # by `close_budget`, or because all have finished


class Ledger:
    """The budgets, claims and queue of one study.

    Parameters
    ----------
    storage : RDBStorage
        From `search.storage.connect`.
    study_id : int
        Optuna's id of the study.
    retries : int
        How often a trial that failed or was lost is claimed again before it is given up.
    draws : bool
        Whether new trials are begun once the queue is empty.

    Raises
    ------
    StudyNotFound
        From every operation, once the study is deleted.
    StorageDown
        From every operation, when the database stays away.
    """

    def __init__(self, storage: RDBStorage, study_id: int, *, retries: int = 2, draws: bool = True) -> None:
        self._storage, self._study_id, self._retries, self._draws = storage, study_id, retries, draws

    def open_budget(self, trials: int) -> int:
        """Ask for that many more finished trials.

        Returns
        -------
        int
            The budget's id.
        """
        if trials < 1:
            raise ValueError(f"a budget is at least 1 trial, not {trials}")

        def work(session: Session) -> int:
            row = insert(BUDGETS).values(study_id=self._study_id, trials=trials, closed=False, created_at=now(session))
            return int(session.execute(row.returning(BUDGETS.c.budget_id)).scalar_one())

        return self._locked(work)

    def close_budget(self, budget_id: int) -> None:
        """Let no more trials be claimed from it; what runs may still finish."""
        self._locked(lambda session: self._close(session, budget_id))

    def remaining(self, budget_id: int) -> Progress:
        """Count where the budget stands.

        Raises
        ------
        KeyError
            The study has no such budget.
        """

        def work(session: Session) -> Progress:
            where = (BUDGETS.c.study_id == self._study_id) & (BUDGETS.c.budget_id == budget_id)
            row = session.execute(select(BUDGETS.c.trials, BUDGETS.c.closed).where(where)).one_or_none()
            if row is None:
                raise KeyError(budget_id)
            counts = states(session, budget_id)
            queue = select(func.count()).where(
                models.TrialModel.study_id == self._study_id, models.TrialModel.state == TrialState.WAITING
            )
            finished = _finished(counts)
            return Progress(
                asked=row.trials,
                finished=finished,
                running=counts.get(TrialState.RUNNING, 0),
                failed=counts.get(TrialState.FAIL, 0),
                waiting=session.execute(queue).scalar_one(),
                closed=row.closed or finished >= row.trials,
            )

        return self._locked(work)

    def claim(self, worker: str, *, budget_id: int | None = None, grace: float = 120.0) -> Claim | Wait | Done:
        """Take the next trial: the lowest-numbered waiting one, else a new one.

        Parameters
        ----------
        worker : str
            A name that no other worker, past or present, has.
        budget_id : int, optional
            The budget to take from; otherwise any open one of the study.
        grace : float, seconds
            Trials whose worker has not beaten for longer are lost, and go back to the queue first.
        """

        def work(session: Session) -> Claim | Wait | Done:
            clock = now(session)
            self._lose(session, CLAIMS.c.beat_at < clock - grace)
            slot = self._free_slot(session, budget_id)
            return self._take(session, worker=worker, budget_id=slot, clock=clock) if isinstance(slot, int) else slot

        return self._locked(work)

    def beat(self, trial_id: int, *, worker: str) -> bool:
        """Say that the worker lives.

        Returns
        -------
        bool
            False when the trial is no longer this worker's: it should stop.
        """

        def work(session: Session) -> bool:
            if self._held(session, trial_id, worker) is None:
                return False
            session.execute(update(CLAIMS).where(CLAIMS.c.trial_id == trial_id).values(beat_at=now(session)))
            return True

        return self._locked(work)

    def finish(self, trial_id: int, *, worker: str, state: TrialState, value: float | None) -> bool:
        """Write the trial's end.

        Parameters
        ----------
        state : COMPLETE or PRUNED
        value : float, finite
            None only for PRUNED, which then has its last report as value, if finite, as in Optuna.

        Returns
        -------
        bool
            False when the trial is no longer this worker's; nothing was written. Asked twice, True twice.

        Raises
        ------
        ValueError
            For another state, or a value that is NaN, infinite or missing; nothing was written.
        """
        if state not in (TrialState.COMPLETE, TrialState.PRUNED):
            raise ValueError(f"a trial finishes as COMPLETE or PRUNED, not {state.name}")
        if value is None and state == TrialState.COMPLETE:
            raise ValueError("a complete trial needs a value")
        if value is not None and not math.isfinite(value):
            raise ValueError(f"a trial's value is a finite number, not {value}")

        def work(session: Session) -> bool:
            trial = self._held(session, trial_id, worker, also=state)
            if trial is None or trial.state == state:
                return trial is not None
            final = value if value is not None else last_report(session, trial_id)
            if final is not None:
                self._storage._set_trial_value_without_commit(session, trial, 0, final)
            trial.state, trial.datetime_complete = state, datetime.now().astimezone()
            return True

        return self._locked(work)

    def release(self, trial_id: int, *, worker: str) -> bool:
        """Put the trial back into the queue, as after an orderly interruption: this attempt does not count.

        Returns
        -------
        bool
            False when the trial is no longer this worker's.
        """

        def work(session: Session) -> bool:
            trial = self._held(session, trial_id, worker)
            if trial is not None:
                put_back(session, trial, forgive=1)
            return trial is not None

        return self._locked(work)

    def fail(self, trial_id: int, *, worker: str, reason: str) -> bool:
        """Note why the attempt failed; the trial goes back to the queue while it has attempts left.

        Returns
        -------
        bool
            True if it will be tried again; False if it is given up, or no longer this worker's.
        """

        def work(session: Session) -> bool:
            trial = self._held(session, trial_id, worker)
            return trial is not None and self._failed(session, trial, reason)

        return self._locked(work)

    def give_back(self, workers: Iterable[str]) -> None:
        """Treat the running trials of these workers, known to be dead, as lost at once."""
        dead = list(workers)
        self._locked(lambda session: self._lose(session, CLAIMS.c.worker.in_(dead)))

    def enqueue(self, key: str, *, params: Mapping[str, Any], user_attrs: Mapping[str, Any]) -> int | None:
        """Put a trial with these parameters into the queue, unless the study ever had one under this key.

        Returns
        -------
        int or None
            Optuna's id of the new trial; None if the key was there.
        """
        template = optuna.trial.create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": dict(params)},  # as Study.enqueue_trial writes it
            user_attrs=dict(user_attrs),
        )

        def work(session: Session) -> int | None:
            if session.execute(select(ENQUEUED).filter_by(study_id=self._study_id, key=key)).first():
                return None
            trial = self._storage._get_prepared_new_trial(self._study_id, template, session)
            row = insert(ENQUEUED).values(study_id=self._study_id, key=key, trial_id=trial.trial_id)
            session.execute(row)
            return int(trial.trial_id)

        return self._locked(work)

    def remember(self, key: str, value: str) -> str:
        """Give the study a user attribute unless it has it; whoever comes first decides for all.

        Returns
        -------
        str
            What the study holds now.
        """
        attribute = models.StudyUserAttributeModel

        def work(session: Session) -> str:
            rows = select(attribute).filter_by(study_id=self._study_id, key=key)
            row = session.execute(rows).scalar_one_or_none()
            if row is None:
                session.add(attribute(study_id=self._study_id, key=key, value_json=json.dumps(value)))
                return value
            return str(json.loads(str(row.value_json)))

        return self._locked(work)

    def _locked(self, work: Callable[[Session], _T]) -> _T:
        study = models.StudyModel

        def locked(session: Session) -> _T:
            # SQLite has no FOR UPDATE: there the transaction began with BEGIN IMMEDIATE (storage.py).
            row = select(study.study_id).where(study.study_id == self._study_id).with_for_update()
            if session.execute(row).first() is None:
                known = session.execute(select(study.study_name).order_by(study.study_name)).scalars()
                raise StudyNotFound(f"number {self._study_id}", known)
            return work(session)

        return transact(self._storage, locked)

    def _free_slot(self, session: Session, budget_id: int | None) -> int | Wait | Done:
        where = (BUDGETS.c.study_id == self._study_id) & BUDGETS.c.closed.is_(False)
        if budget_id is not None:
            where &= BUDGETS.c.budget_id == budget_id
        answer: Wait | Done = Done()
        for budget in session.execute(select(BUDGETS).where(where).order_by(BUDGETS.c.budget_id)).all():
            counts = states(session, budget.budget_id)
            running, finished = counts.get(TrialState.RUNNING, 0), _finished(counts)
            empty = not self._draws and self._queue_is_empty(session)
            if running + finished < budget.trials and not empty:
                return int(budget.budget_id)
            if finished >= budget.trials or (empty and not running):
                self._close(session, budget.budget_id)
            else:
                answer = Wait()
        return answer

    def _queue_is_empty(self, session: Session) -> bool:
        trial = models.TrialModel
        queue = select(trial.trial_id).filter_by(study_id=self._study_id, state=TrialState.WAITING).limit(1)
        return session.execute(queue).first() is None

    def _take(self, session: Session, *, worker: str, budget_id: int, clock: float) -> Claim:
        trial: Trial = self._pop(session)
        if trial is None:
            trial = self._storage._get_prepared_new_trial(self._study_id, None, session)
        before = attempts(session, trial.trial_id)
        attempt = (before or 0) + 1
        row = {"budget_id": budget_id, "worker": worker, "attempts": attempt, "beat_at": clock}
        if before is None:
            row |= {"trial_id": trial.trial_id, "study_id": self._study_id}
            session.execute(insert(CLAIMS).values(row))
        else:
            session.execute(update(CLAIMS).where(CLAIMS.c.trial_id == trial.trial_id).values(row))
        return Claim(trial_id=trial.trial_id, number=trial.number, attempt=attempt, budget_id=budget_id)

    def _pop(self, session: Session) -> Trial | None:
        trial = models.TrialModel
        queue = select(trial).filter_by(study_id=self._study_id, state=TrialState.WAITING)
        queue = queue.order_by(trial.number).limit(1)
        while (first := session.execute(queue).scalar_one_or_none()) is not None:
            # Somebody's plain Study.ask, which knows no lock on the study, may be popping the same one.
            session.refresh(first, with_for_update=True)
            if first.state == TrialState.WAITING:
                first.state, first.datetime_start = TrialState.RUNNING, datetime.now().astimezone()
                return first
        return None

    def _held(self, session: Session, trial_id: int, worker: str, *, also: TrialState | None = None) -> Trial | None:
        where = (CLAIMS.c.trial_id == trial_id) & (CLAIMS.c.study_id == self._study_id) & (CLAIMS.c.worker == worker)
        if session.execute(select(CLAIMS.c.trial_id).where(where)).first() is None:
            return None
        trial = session.get(models.TrialModel, trial_id, with_for_update=True)
        return trial if trial is not None and trial.state in (TrialState.RUNNING, also) else None

    def _lose(self, session: Session, which: ColumnElement[bool]) -> None:
        where = (CLAIMS.c.study_id == self._study_id) & (models.TrialModel.state == TrialState.RUNNING) & which
        claims = select(CLAIMS.c.trial_id, CLAIMS.c.worker).join(
            models.TrialModel, models.TrialModel.trial_id == CLAIMS.c.trial_id
        )
        for claim in session.execute(claims.where(where)).all():
            trial = session.get(models.TrialModel, claim.trial_id, with_for_update=True)
            if trial is not None and trial.state == TrialState.RUNNING:
                self._failed(session, trial, f"lost: worker {claim.worker} fell silent")

    def _failed(self, session: Session, trial: Trial, reason: str) -> bool:
        attribute = models.TrialUserAttributeModel
        row = attribute.find_by_trial_and_key(trial, FAILURE, session)
        earlier = [] if row is None else json.loads(str(row.value_json))
        reasons = [*earlier, reason[:_REASON_LENGTH]]
        self._storage._set_trial_attr_without_commit(session, attribute, trial.trial_id, FAILURE, reasons[-_REASONS:])
        if (attempts(session, trial.trial_id) or 0) <= self._retries:
            put_back(session, trial, forgive=0)
            return True
        trial.state, trial.datetime_complete = TrialState.FAIL, datetime.now().astimezone()
        return False

    def _close(self, session: Session, budget_id: int) -> None:
        where = (BUDGETS.c.study_id == self._study_id) & (BUDGETS.c.budget_id == budget_id)
        session.execute(update(BUDGETS).where(where).values(closed=True))


def ask(study: optuna.Study, claim: Claim) -> optuna.trial.Trial:
    """Make the claimed trial one that can suggest and report, as `Study.ask` does.

    Parameters that an earlier attempt suggested are kept: Optuna returns them instead of sampling.
    """
    study._thread_local.cached_all_trials = None
    study._storage.get_all_trials(study._study_id, deepcopy=False)  # its cache learns of the trial
    return optuna.trial.Trial(study, claim.trial_id)


def _finished(counts: Mapping[TrialState, int]) -> int:
    return counts.get(TrialState.COMPLETE, 0) + counts.get(TrialState.PRUNED, 0)
