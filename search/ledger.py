"""Who runs which trial, and how many more: exact budgets, claims, retries, an idempotent queue.

Plain Optuna counts after a trial, so several workers overshoot, and on SQLite two of them can pop one trial.
Here every step is one transaction that holds the study's row, and every count is read from the trials' own
states. A trial keeps its Optuna id for life: lost or interrupted, it goes from RUNNING back to WAITING with
its parameters and reports. Whatever is done may be done twice: a connection that is lost while committing leaves
nobody the wiser. Times are the database's, as machines' clocks differ. Not here: threads that beat (worker.py); who
starts processes (pool.py).
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import optuna
from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.orm import Session

from search.errors import CodeChanged, StudyNotFound
from search.slots import (
    Desk,
    Done,
    Plan,
    Slot,
    Wait,
    change,
    end,
    finished_of,
    give_up,
    moment,
    next_slot,
    objectives,
    pruned_values,
    queue,
)
from search.storage import transact
from search.tables import (
    BUDGETS,
    CLAIMS,
    ENQUEUED,
    WORKERS,
    Trial,
    last_step,
    now,
    pause,
    put_back,
    states,
)
from search.trials import PAUSED, Trials

FAILURE: Final = "failure"  # user attribute of a trial: why it failed or was lost, oldest first
OUT_OF_MEMORY: Final = "out of memory"  # in the reason of a trial whose worker the kernel killed for it
_REASONS: Final = 10  # how many of them are kept
_REASON_LENGTH: Final = 2000  # characters of each
CODE: Final = "mlc:code"  # study attribute: the versions by which its trials are trained
GRACE: Final = 120.0  # seconds of silence after which a worker is taken to be dead
UNLIMITED: Final = 1_000_000  # trials of a budget that something else is to end
LOSSES: Final = 10  # workers in a row that a trial may take with it, without a new report, before it is given up

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _operation(method: Callable[Concatenate[Ledger, _P], _T]) -> Callable[Concatenate[Ledger, _P], _T]:
    """Have the storage do it where the database is: here, or at the proxy that holds the connection."""

    @wraps(method)
    def operation(ledger: Ledger, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return ledger._storage.operate(method, ledger, *args, **kwargs)

    return operation


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial that this worker, and nobody else, runs now."""

    trial_id: int  # Optuna's, unique in the database
    number: int  # unique in the study, from 0
    attempt: int  # counted from 1; an attempt that was released does not count
    budget_id: int
    left: int = 0  # trials of the budget that are still to begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a budget stands."""

    asked: int  # trials that are to finish
    finished: int  # complete or pruned
    running: int
    failed: int  # given up after their last attempt; they do not count against the budget
    paused: int = 0  # begun, and waiting for a promotion; pruned once none of the budget's can be promoted
    waiting: int  # trials of the study, of any origin, that wait to be claimed
    closed: bool  # by `close_budget`, or because all have finished
    workers: int | None = None  # that the budget's own run is to have; None: as many as it started with


@dataclass(frozen=True, slots=True)
class Budget:
    """An open budget."""

    budget_id: int
    asked: int  # trials that are to finish
    own: bool  # whether a run with workers of its own alone works on it
    workers: int | None  # that this run is to have; None: as many as it started with


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker on the list."""

    name: str
    about: Mapping[str, Any]  # its code, data, host and device
    silent: float  # seconds since it was heard


class Ledger:
    """The budgets, claims and queue of one study.

    Parameters
    ----------
    storage : Trials
        From `search.storage.connect`.
    study_id : int
        Optuna's id of the study.
    retries : int
        How often a trial that failed is claimed again before it is given up. One whose worker fell silent is always
        claimed again, unless that happens LOSSES times in a row without a new report.
    draws : bool
        Whether new trials are begun once the queue is empty.
    heard : float, optional
        When somebody last heard us, by the database's clock; 0 tells that silent workers may have found nobody to
        speak to until now.

    Raises
    ------
    StudyNotFound
        From every operation, once the study is deleted.
    StorageDown
        From every operation, when the database stays away.
    """

    def __init__(
        self, storage: Trials, study_id: int, *, retries: int = 2, draws: bool = True, heard: float = -math.inf
    ) -> None:
        self._storage, self._study_id, self._retries, self._draws = storage, study_id, retries, draws
        self._asked_at, self._calm_until = heard, -math.inf  # the database's clock

    @property
    def terms(self) -> dict[str, Any]:
        """What another ledger needs, to be this one elsewhere."""
        return {"study_id": self._study_id, "retries": self._retries, "draws": self._draws}

    @_operation
    def open_budget(self, trials: int, *, own: bool = False, token: str | None = None) -> int:
        """Ask for that many more finished trials.

        Parameters
        ----------
        own : bool
            Whether whoever asks has workers of its own for them, and beats: when it falls silent, the budget is closed.
        token : str, optional
            By which whoever asks a second time, as the answer was lost, gets the first answer.

        Returns
        -------
        int
            The budget's id.
        """
        if trials < 1:
            raise ValueError(f"a budget is at least 1 trial, not {trials}")

        token = token or secrets.token_hex(16)

        def work(session: Session) -> int:
            there = session.execute(select(BUDGETS.c.budget_id).filter_by(token=token)).scalar_one_or_none()
            if there is not None:
                return int(there)
            clock = now(session)
            row = insert(BUDGETS).values(study_id=self._study_id, trials=trials, closed=False, created_at=clock)
            row = row.values(token=token, beat_at=clock if own else None)
            return int(session.execute(row.returning(BUDGETS.c.budget_id)).scalar_one())

        return self._locked(work)

    @_operation
    def keep_budget(self, budget_id: int) -> None:
        """Say that whoever opened its own budget lives."""
        self._locked(lambda session: change(self._desk(session), budget_id, beat_at=now(session)))

    @_operation
    def close_budget(self, budget_id: int) -> None:
        """Let no more trials be claimed from it; what runs may still finish."""
        self._locked(lambda session: change(self._desk(session), budget_id, closed=True))

    @_operation
    def resize_budget(self, budget_id: int, *, trials: int | None = None, workers: int | None = None) -> bool:
        """Change how many trials are to finish, and how many workers its own run is to have.

        Parameters
        ----------
        trials : int, optional
            In all. Never fewer than have begun: 0 lets these end, and no other begin.
        workers : int, optional
            At least 1; the run sees to it within a second or two.

        Returns
        -------
        bool
            False when it is closed or all have finished; nothing was changed.

        Raises
        ------
        KeyError
            The study has no such budget.
        """

        def work(session: Session) -> bool:
            row, counts = self._stands(session, budget_id)
            if row.closed or finished_of(counts) >= row.trials:
                return False
            begun = sum(counts.values()) - counts.get(TrialState.FAIL, 0)
            values = {} if trials is None else {"trials": max(trials, begun)}
            values |= {} if workers is None else {"workers": workers}
            if values:
                change(self._desk(session), budget_id, **values)
            return True

        return self._locked(work)

    @_operation
    def wind_up(self, budget_id: int, *, from_epoch: int | None) -> None:
        """Let nothing new begin, and of what has begun only go on what has come to this epoch; None: all may again.

        Paused trials then need no promotion, and the best go on first.
        """
        self._locked(lambda session: change(self._desk(session), budget_id, from_epoch=from_epoch))

    @_operation
    def budgets(self) -> list[Budget]:
        """List the open budgets, the oldest first."""

        def work(session: Session) -> list[Budget]:
            where = (BUDGETS.c.study_id == self._study_id) & BUDGETS.c.closed.is_(False)
            rows = session.execute(select(BUDGETS).where(where).order_by(BUDGETS.c.budget_id)).all()
            return [
                Budget(row.budget_id, row.trials, row.beat_at is not None, row.workers)
                for row in rows
                if finished_of(states(session, row.budget_id)) < row.trials
            ]

        return self._locked(work)

    @_operation
    def runners(self, budget_id: int) -> dict[str, int]:
        """Tell which worker runs which trial of the budget, by the trial's number."""
        trial = models.TrialModel

        def work(session: Session) -> dict[str, int]:
            rows = select(CLAIMS.c.worker, trial.number).join(trial, trial.trial_id == CLAIMS.c.trial_id)
            where = (CLAIMS.c.budget_id == budget_id) & (trial.state == TrialState.RUNNING)
            return {row.worker: row.number for row in session.execute(rows.where(where))}

        return self._locked(work)

    @_operation
    def remaining(self, budget_id: int) -> Progress:
        """Count where the budget stands.

        Raises
        ------
        KeyError
            The study has no such budget.
        """

        def work(session: Session) -> Progress:
            row, counts = self._stands(session, budget_id)
            waiting = select(func.count()).select_from(queue(self._desk(session)).subquery())
            finished = finished_of(counts)
            return Progress(
                asked=row.trials,
                finished=finished,
                running=counts.get(TrialState.RUNNING, 0),
                failed=counts.get(TrialState.FAIL, 0),
                paused=counts.get(TrialState.WAITING, 0),
                waiting=session.execute(waiting).scalar_one(),
                closed=row.closed or finished >= row.trials,
                workers=row.workers,
            )

        return self._locked(work)

    @_operation
    def claim(
        self,
        worker: str,
        *,
        budget_id: int | None = None,
        grace: float = GRACE,
        code: str | None = None,
        plan: Plan | None = None,
        token: str | None = None,
    ) -> Claim | Wait | Done:
        """Take the next trial: the lowest-numbered waiting one, else one to be promoted, else a new one.

        Parameters
        ----------
        worker : str
            A name that no other worker, past or present, has.
        budget_id : int, optional
            The budget to take from; otherwise any open one of the study.
        grace : float, seconds
            Trials whose worker has not beaten for longer are lost, and go back to the queue first.
        code : str, optional
            The versions of this worker; they become the study's, unless others are at work.
        plan : Plan, optional
            Without one paused trials are promoted by nobody, and pruned once nothing else is left of their budget.
        token : str, optional
            By which whoever asks a second time, as the answer was lost, gets the first answer.

        Raises
        ------
        CodeChanged
            Workers of other versions are at work.
        """
        token = token or secrets.token_hex(16)

        def work(session: Session) -> Claim | Wait | Done:
            clock = now(session)
            where = (CLAIMS.c.study_id == self._study_id) & (CLAIMS.c.token == token)
            if (mine := session.execute(select(CLAIMS).where(where)).one_or_none()) is not None:
                number = int(session.get_one(models.TrialModel, mine.trial_id).number)
                return Claim(int(mine.trial_id), number, int(mine.attempts), int(mine.budget_id))
            if self._is_calm(clock, grace):
                self._lose(session, CLAIMS.c.beat_at < clock - grace)
            if budget_id is None:
                self._close_abandoned(session, clock - grace)
            if code is not None:
                self._agree(session, code, since=clock - grace)
            give_up(self._desk(session), [] if plan is None else plan.give_up)
            found = next_slot(self._desk(session), budget_id, plan)
            if not isinstance(found, Slot):
                return found
            return self._take(session, found, worker=worker, clock=clock, token=token)

        return self._locked(work)

    @_operation
    def beat(self, trial_id: int, *, worker: str) -> bool:
        """Say that the worker lives.

        Returns
        -------
        bool
            False when the trial is no longer this worker's: it should stop.
        """

        def work(session: Session) -> bool:
            clock = now(session)
            self._is_calm(clock, GRACE)
            session.execute(update(WORKERS).filter_by(worker=worker).values(beat_at=clock))
            if self._held(session, trial_id, worker) is None:
                return False
            session.execute(update(CLAIMS).where(CLAIMS.c.trial_id == trial_id).values(beat_at=clock))
            return True

        return self._locked(work)

    @_operation
    def enlist(self, worker: str, about: Mapping[str, Any]) -> None:
        """Put a worker on the list of those that are there, for people to read; again to say that it lives."""

        def work(session: Session) -> None:
            session.execute(delete(WORKERS).filter_by(worker=worker))
            row = {"worker": worker, "study_id": self._study_id, "about": json.dumps(dict(about))}
            session.execute(insert(WORKERS).values(row | {"beat_at": now(session)}))

        self._locked(work)

    @_operation
    def workers(self) -> list[Worker]:
        """List the workers that have begun and not ended in order."""

        def work(session: Session) -> list[Worker]:
            clock = now(session)
            rows = session.execute(select(WORKERS).filter_by(study_id=self._study_id).order_by(WORKERS.c.worker))
            return [Worker(row.worker, json.loads(row.about), clock - row.beat_at) for row in rows]

        return self._locked(work)

    @_operation
    def recover(self, *, grace: float = GRACE) -> int:
        """Put the trials of workers that fell silent back into the queue, and strike those workers off the list.

        Returns
        -------
        int
            How many trials they were.
        """

        def work(session: Session) -> int:
            since = now(session) - grace
            session.execute(delete(WORKERS).where(WORKERS.c.study_id == self._study_id, WORKERS.c.beat_at < since))
            self._close_abandoned(session, since)
            return self._lose(session, CLAIMS.c.beat_at < since)

        return self._locked(work)

    @_operation
    def finish(
        self, trial_id: int, *, worker: str, state: TrialState, value: float | None, second: float | None = None
    ) -> bool:
        """Write the trial's end.

        Parameters
        ----------
        state : COMPLETE or PRUNED
        value : float, finite
            None only for PRUNED, which then has its last report as value, if finite, as in Optuna; none at all in a
            study of two objectives, whose samplers would take it for a point of the front.
        second : float, finite
            The second objective's, of a complete trial in a study that has two.

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
        if second is not None and not math.isfinite(second):
            raise ValueError(f"a trial's second value is a finite number, not {second}")
        values = [one for one in (value, second) if one is not None]

        def work(session: Session) -> bool:
            trial = self._held(session, trial_id, worker, also=state)
            if trial is None or trial.state == state:
                return trial is not None
            desk = self._desk(session)
            if state == TrialState.COMPLETE and len(values) != (wanted := objectives(desk)):
                raise ValueError(f"a complete trial of this study has {wanted} values, not {len(values)}")
            end(desk, trial, state, values or pruned_values(desk, trial_id))
            return True

        return self._locked(work)

    @_operation
    def pause(self, trial_id: int, *, worker: str) -> bool:
        """Let the trial wait at its last report until somebody's plan promotes it, in its slot of the budget.

        Returns
        -------
        bool
            False when the trial is no longer this worker's. Asked twice, True twice.
        """

        def work(session: Session) -> bool:
            where = (CLAIMS.c.trial_id == trial_id) & (CLAIMS.c.paused_by == worker)
            if session.execute(select(CLAIMS.c.trial_id).where(where)).first() is not None:
                return True
            trial = self._held(session, trial_id, worker)
            if trial is None:
                return False
            step = last_step(session, trial_id) or 0
            attribute = models.TrialSystemAttributeModel
            self._storage._set_trial_attr_without_commit(session, attribute, trial_id, PAUSED, step)
            pause(session, trial, step=step, worker=worker)
            return True

        return self._locked(work)

    @_operation
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

    @_operation
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

    @_operation
    def give_back(self, workers: Sequence[str], *, why: str = "ended") -> None:
        """Treat the running trials of these workers, known to have ended, as lost at once."""
        ended = list(workers)

        def work(session: Session) -> None:
            self._lose(session, CLAIMS.c.worker.in_(ended), why)
            session.execute(delete(WORKERS).where(WORKERS.c.worker.in_(ended)))

        self._locked(work)

    @_operation
    def enqueue(self, key: str, *, params: Mapping[str, Any], user_attrs: Mapping[str, Any]) -> int | None:
        """Put a trial with these parameters into the queue, unless the study has one under this key.

        One that was given up after its last attempt is replaced by a new one.

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
            rows = select(models.TrialModel.state).join(ENQUEUED, ENQUEUED.c.trial_id == models.TrialModel.trial_id)
            state = session.execute(rows.where(ENQUEUED.c.study_id == self._study_id, ENQUEUED.c.key == key)).scalar()
            if state not in (None, TrialState.FAIL):
                return None
            session.execute(delete(ENQUEUED).filter_by(study_id=self._study_id, key=key))
            trial = self._storage._get_prepared_new_trial(self._study_id, template, session)
            row = insert(ENQUEUED).values(study_id=self._study_id, key=key, trial_id=trial.trial_id)
            session.execute(row)
            return int(trial.trial_id)

        return self._locked(work)

    @_operation
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
            # SQLite has no FOR UPDATE: there the transaction began with BEGIN IMMEDIATE (storage.py). PostgreSQL's lock
            # lets foreign keys pass, which every attribute of the study has: they would wait in the other order.
            row = select(study.study_id).where(study.study_id == self._study_id).with_for_update(key_share=True)
            if session.execute(row).first() is None:
                known = session.execute(select(study.study_name).order_by(study.study_name)).scalars()
                raise StudyNotFound(f"number {self._study_id}", known)
            return work(session)

        return transact(self._storage, locked)

    def _is_calm(self, clock: float, grace: float) -> bool:
        """Tell whether silent workers have had time to speak since this process could be heard itself.

        After a laptop's sleep or a database's absence all of them have been silent, and one asks first. To be called
        whenever this process has been heard.
        """
        if self._asked_at > -math.inf and clock - self._asked_at > grace / 2:
            self._calm_until = clock + grace / 2
        self._asked_at = clock
        return clock >= self._calm_until

    def _agree(self, session: Session, code: str, *, since: float) -> None:
        """See to it that workers of the same versions alone train at the same time."""
        attribute, trial = models.StudyUserAttributeModel, models.TrialModel
        row = session.execute(select(attribute).filter_by(study_id=self._study_id, key=CODE)).scalar_one_or_none()
        if row is None:
            session.add(attribute(study_id=self._study_id, key=CODE, value_json=json.dumps(code)))
        elif (known := str(json.loads(str(row.value_json)))) != code:
            where = (CLAIMS.c.study_id == self._study_id) & (trial.state == TrialState.RUNNING)
            running = select(CLAIMS.c.worker).join(trial, trial.trial_id == CLAIMS.c.trial_id).where(where)
            others = session.execute(running.where(CLAIMS.c.beat_at >= since)).scalars().all()
            if others:
                raise CodeChanged(others[0], known, code)
            row.value_json = json.dumps(code)

    def _close_abandoned(self, session: Session, since: float) -> None:
        where = (BUDGETS.c.study_id == self._study_id) & (BUDGETS.c.beat_at < since)
        session.execute(update(BUDGETS).where(where, BUDGETS.c.closed.is_(False)).values(closed=True))

    def _take(self, session: Session, slot: Slot, *, worker: str, clock: float, token: str) -> Claim:
        trial: Trial = slot.promoted if slot.promoted is not None else self._pop(session)
        if trial is None:
            trial = self._storage._get_prepared_new_trial(self._study_id, None, session)
        trial.datetime_start = moment(clock)
        before = session.execute(select(CLAIMS).where(CLAIMS.c.trial_id == trial.trial_id)).one_or_none()
        attempt = 1 if before is None else before.attempts + 1
        row = {"budget_id": slot.budget_id, "worker": worker, "attempts": attempt, "beat_at": clock, "token": token}
        row |= {"from_step": last_step(session, trial.trial_id), "paused_at": None, "paused_by": None}
        if before is None:
            row |= {"trial_id": trial.trial_id, "study_id": self._study_id}
            session.execute(insert(CLAIMS).values(row))
        else:
            session.execute(update(CLAIMS).where(CLAIMS.c.trial_id == trial.trial_id).values(row))
        return Claim(trial.trial_id, trial.number, attempt, slot.budget_id, slot.left)

    def _pop(self, session: Session) -> Trial | None:
        trial = models.TrialModel
        waiting = select(trial).where(trial.trial_id.in_(queue(self._desk(session)))).order_by(trial.number).limit(1)
        while (first := session.execute(waiting).scalar_one_or_none()) is not None:
            # Somebody's plain Study.ask, which knows no lock on the study, may be popping the same one.
            session.refresh(first, with_for_update=True)
            if first.state == TrialState.WAITING:
                first.state = TrialState.RUNNING
                return first
        return None

    def _held(self, session: Session, trial_id: int, worker: str, *, also: TrialState | None = None) -> Trial | None:
        where = (CLAIMS.c.trial_id == trial_id) & (CLAIMS.c.study_id == self._study_id) & (CLAIMS.c.worker == worker)
        if session.execute(select(CLAIMS.c.trial_id).where(where)).first() is None:
            return None
        trial = session.get(models.TrialModel, trial_id, with_for_update=True)
        return trial if trial is not None and trial.state in (TrialState.RUNNING, also) else None

    def _lose(self, session: Session, which: ColumnElement[bool], why: str = "fell silent") -> int:
        where = (CLAIMS.c.study_id == self._study_id) & (models.TrialModel.state == TrialState.RUNNING) & which
        claims = select(CLAIMS).join(models.TrialModel, models.TrialModel.trial_id == CLAIMS.c.trial_id)
        lost = 0
        for claim in session.execute(claims.where(where)).all():
            trial = session.get(models.TrialModel, claim.trial_id, with_for_update=True)
            if trial is None or trial.state != TrialState.RUNNING:
                continue
            step = last_step(session, claim.trial_id)
            losses = 0 if step is not None and step > (claim.from_step or 0) else claim.losses + 1
            self._note(session, trial, f"lost: worker {claim.worker} {why}", {"losses": losses})
            self._put_back_or_give_up(session, trial, losses < LOSSES)
            lost += 1
        return lost

    def _failed(self, session: Session, trial: Trial, reason: str) -> bool:
        rows = select(CLAIMS.c.failures).where(CLAIMS.c.trial_id == trial.trial_id)
        failures = int(session.execute(rows).scalar_one()) + 1
        self._note(session, trial, reason, {"failures": failures})
        return self._put_back_or_give_up(session, trial, failures <= self._retries)

    def _note(self, session: Session, trial: Trial, reason: str, counts: Mapping[str, int]) -> None:
        attribute = models.TrialUserAttributeModel
        row = attribute.find_by_trial_and_key(trial, FAILURE, session)
        earlier = [] if row is None else json.loads(str(row.value_json))
        reasons = [*earlier, reason[:_REASON_LENGTH]]
        self._storage._set_trial_attr_without_commit(session, attribute, trial.trial_id, FAILURE, reasons[-_REASONS:])
        session.execute(update(CLAIMS).where(CLAIMS.c.trial_id == trial.trial_id).values(dict(counts)))

    def _put_back_or_give_up(self, session: Session, trial: Trial, again: bool) -> bool:
        if again:
            put_back(session, trial, forgive=0)
        else:
            trial.state, trial.datetime_complete = TrialState.FAIL, moment(now(session))
        return again

    def _stands(self, session: Session, budget_id: int) -> tuple[Row[Any, Any, Any], dict[TrialState, int]]:
        """Read a budget, and count its trials; KeyError where there is none."""
        where = (BUDGETS.c.study_id == self._study_id) & (BUDGETS.c.budget_id == budget_id)
        row = session.execute(select(BUDGETS.c.trials, BUDGETS.c.closed, BUDGETS.c.workers).where(where)).one_or_none()
        if row is None:
            raise KeyError(budget_id)
        return row, states(session, budget_id)

    def _desk(self, session: Session) -> Desk:
        return Desk(session, self._storage, self._study_id, self._draws)


def ask(study: optuna.Study, claim: Claim) -> optuna.trial.Trial:
    """Make the claimed trial one that can suggest and report, as `Study.ask` does.

    Parameters that an earlier attempt suggested are kept: Optuna returns them instead of sampling.
    """
    study._thread_local.cached_all_trials = None
    study._storage.get_all_trials(study._study_id, deepcopy=False)  # its cache learns of the trial
    return optuna.trial.Trial(study, claim.trial_id)
