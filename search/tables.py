"""Our tables, beside Optuna's in the same database, and the small statements that read and write them.

A study that Optuna deletes takes its rows here with it. Not here: when a row changes (ledger.py); who creates
the tables (storage.py).
"""

from __future__ import annotations

from typing import Any, Final

from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.trial import TrialState
from sqlalchemy import (
    DDL,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    event,
    extract,
    func,
    select,
    update,
)
from sqlalchemy.orm import Session

Trial = Any  # a models.TrialModel, whose columns Optuna leaves untyped

METADATA: Final = MetaData()
_STUDY: Final = models.StudyModel.__table__.c.study_id
_TRIAL: Final = models.TrialModel.__table__.c.trial_id

BUDGETS: Final = Table(
    "mlc_budgets",
    METADATA,
    Column("budget_id", Integer, primary_key=True),
    Column("study_id", ForeignKey(_STUDY, ondelete="CASCADE"), nullable=False, index=True),
    Column("trials", Integer, nullable=False),  # how many are to finish
    Column("closed", Boolean, nullable=False),
    Column("created_at", Float(53), nullable=False),  # seconds since 1970, the database's clock
    Column("token", String(64)),  # by which whoever opened it knows it again
    Column("beat_at", Float(53)),  # of the run whose own workers alone work on it; null: anybody's, it stays open
    Column("workers", Integer),  # that this run is to have from now on; null: as many as it started with
    Column("from_epoch", Integer),  # nothing new begins, and what got as far goes on, the best first; null: all may
)

# One row for each trial that was ever claimed. While the trial waits to be claimed again it has no budget, no
# worker and no beat: only what became of earlier attempts is remembered. A paused one keeps its budget.
CLAIMS: Final = Table(
    "mlc_claims",
    METADATA,
    Column("trial_id", ForeignKey(_TRIAL, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("study_id", ForeignKey(_STUDY, ondelete="CASCADE"), nullable=False),
    Column("budget_id", ForeignKey(BUDGETS.c.budget_id, ondelete="CASCADE"), index=True),
    Column("worker", String(512)),
    Column("attempts", Integer, nullable=False),
    Column("beat_at", Float(53)),  # seconds since 1970, the database's clock
    Column("failures", Integer, nullable=False, server_default="0"),  # attempts that ended by an error
    Column("losses", Integer, nullable=False, server_default="0"),  # in a row, each without a new report
    Column("from_step", Integer),  # the last report when it was claimed
    Column("token", String(64)),  # by which whoever claimed it knows it again
    Column("paused_at", Integer),  # its last report, if it waits not to be claimed again but to be promoted
    Column("paused_by", String(512)),  # the worker that paused it then, should it say so twice
    Index("ix_mlc_claims_study", "study_id", "beat_at"),
)

# One row for each worker that has begun and not ended in order.
WORKERS: Final = Table(
    "mlc_workers",
    METADATA,
    Column("worker", String(512), primary_key=True),
    Column("study_id", ForeignKey(_STUDY, ondelete="CASCADE"), nullable=False, index=True),
    Column("about", String, nullable=False),  # JSON: its code, data, host, device
    Column("beat_at", Float(53), nullable=False),  # seconds since 1970, the database's clock
)

ENQUEUED: Final = Table(
    "mlc_enqueued",
    METADATA,
    Column("study_id", ForeignKey(_STUDY, ondelete="CASCADE"), primary_key=True),
    Column("key", String(512), primary_key=True),
    Column("trial_id", ForeignKey(_TRIAL, ondelete="CASCADE"), nullable=False, index=True),
)


def _follow(table: Table, *, parent: str, key: str) -> None:
    # SQLite obeys ON DELETE CASCADE only on connections that ask for it; plain Optuna's do not. It also gives
    # a deleted study's id to the next one, which would inherit the rows. A trigger always fires.
    delete = f"DELETE FROM {table.name} WHERE {key} = OLD.{key}"  # noqa: S608 - names from this file
    sql = f"CREATE TRIGGER {table.name}_follow_{parent} AFTER DELETE ON {parent} BEGIN {delete}; END"
    trigger = DDL(sql)  # type: ignore[no-untyped-call]  # SQLAlchemy left its constructor untyped
    event.listen(table, "after_create", trigger.execute_if(dialect="sqlite"))


_follow(BUDGETS, parent="studies", key="study_id")
_follow(CLAIMS, parent="studies", key="study_id")
_follow(WORKERS, parent="studies", key="study_id")
_follow(CLAIMS, parent="trials", key="trial_id")
_follow(ENQUEUED, parent="studies", key="study_id")
_follow(ENQUEUED, parent="trials", key="trial_id")


def now(session: Session) -> float:
    """Read the one clock that all machines share, the database's: seconds since 1970."""
    if session.get_bind().dialect.name == "sqlite":
        return float(session.execute(select((func.julianday("now") - 2440587.5) * 86400.0)).scalar_one())
    # now() would be the time before the transaction waited for its lock.
    return float(session.execute(select(extract("epoch", func.clock_timestamp()).cast(Float(53)))).scalar_one())


def states(session: Session, budget_id: int) -> dict[TrialState, int]:
    """Count the trials that hold a slot of the budget, or held it when they failed, by their state; WAITING: paused."""
    trial = models.TrialModel
    rows = select(trial.state, func.count()).join(CLAIMS, CLAIMS.c.trial_id == trial.trial_id)
    rows = rows.where(CLAIMS.c.budget_id == budget_id).group_by(trial.state)
    return {row[0]: row[1] for row in session.execute(rows)}


def put_back(session: Session, trial: Trial, *, forgive: int) -> None:
    """Let a running trial wait to be claimed again, and forget that many of its attempts."""
    _unclaim(session, trial, {"budget_id": None, "attempts": CLAIMS.c.attempts - forgive})


def pause(session: Session, trial: Trial, *, step: int, worker: str) -> None:
    """Let a running trial wait to be promoted, in its slot of the budget."""
    _unclaim(session, trial, {"paused_at": step, "paused_by": worker})


def _unclaim(session: Session, trial: Trial, row: dict[str, Any]) -> None:
    row |= {"worker": None, "beat_at": None, "token": None}
    session.execute(update(CLAIMS).where(CLAIMS.c.trial_id == trial.trial_id).values(row))
    trial.state = TrialState.WAITING


def last_step(session: Session, trial_id: int) -> int | None:
    """Read the trial's newest step; None if it has not reported."""
    report = models.TrialIntermediateValueModel
    newest: int | None = session.execute(select(func.max(report.step)).where(report.trial_id == trial_id)).scalar()
    return newest


def last_report(session: Session, trial_id: int) -> float | None:
    """Read the trial's newest intermediate value; None if there is none or it is not finite."""
    report = models.TrialIntermediateValueModel
    rows = select(report.intermediate_value).where(report.trial_id == trial_id)
    # The infinities and NaN have no number here: another column names them.
    newest: float | None = session.execute(rows.order_by(report.step.desc()).limit(1)).scalar_one_or_none()
    return newest
