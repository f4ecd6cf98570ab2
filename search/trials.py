"""Optuna's storage with fewer and smaller statements: trials read without the ORM, writes gathered in one transaction.

What is read and written is what RDBStorage would. Not here: URLs, connections, retries (storage.py); our own tables
(tables.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, wraps
from sys import intern
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from optuna.distributions import BaseDistribution, check_distribution_compatibility, json_to_distribution
from optuna.distributions import distribution_to_json as spelled
from optuna.storages import RDBStorage
from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import ColumnElement, Table, delete, false, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from search.errors import SearchError
from search.patience import Patience
from search.tables import CLAIMS, now

PAPER: Final = "paper"  # trial attribute: the number of the documented trial that this one replays
REPEATS: Final = "repeats"  # trial attribute: the number of the trial that this one repeats with a fresh seed
WARM_START: Final = "warm_start"  # trial attribute: the earlier study, its identity, and the trial's number there
PAUSED: Final = "mlc:paused"  # system attribute of a trial: the step at which it paused last
_FEW: Final = 500  # trials that a statement names one by one
_TRIALS: Final[Table] = models.TrialModel.__table__
_PARAMS: Final[Table] = models.TrialParamModel.__table__
_VALUES: Final[Table] = models.TrialValueModel.__table__
_REPORTS: Final[Table] = models.TrialIntermediateValueModel.__table__
_USER: Final[Table] = models.TrialUserAttributeModel.__table__
_SYSTEM: Final[Table] = models.TrialSystemAttributeModel.__table__
_STUDY: Final[Table] = models.StudySystemAttributeModel.__table__
_KEYS: Final = {  # what makes a row unique; a parameter that is there stays as it is, as in Optuna
    _PARAMS: ("trial_id", "param_name"),
    _REPORTS: ("trial_id", "step"),
    _USER: ("trial_id", "key"),
    _SYSTEM: ("trial_id", "key"),
    _STUDY: ("study_id", "key"),
}

_Rows = list[tuple[Any, dict[str, Any]]]  # tables and their rows, or whatever else a storage writes together
_T = TypeVar("_T")
_L = TypeVar("_L")
_P = ParamSpec("_P")


def _patient(method: Callable[..., _T]) -> Callable[..., _T]:
    @wraps(method)
    def again(storage: Trials, *args: Any, **kwargs: Any) -> _T:  # noqa: ANN401 - whatever the method takes
        return storage.patiently(lambda: method(storage, *args, **kwargs))

    return again


def paused_at(trial: FrozenTrial) -> int:
    """Tell after which step a trial pauses; 0 if it does not, as one that went on and was put back since."""
    step = int(trial.system_attrs.get(PAUSED, 0))
    return step if trial.state == TrialState.WAITING and step == trial.last_step else 0


def is_replay(trial: FrozenTrial | Trial) -> bool:
    """Tell whether a trial replays or repeats another: it was not searched, and may train otherwise than what is."""
    return PAPER in trial.user_attrs or REPEATS in trial.user_attrs


def value_of(trial: FrozenTrial) -> float | None:
    """Read a trial's value, of a study of two objectives the first one's; Optuna's `value` refuses those."""
    return trial.values[0] if trial.values else None


class TrialTaken(Exception):
    """A trial is another worker's by now: this one fell silent for too long, and may write nothing of it any more."""


class Trials(RDBStorage):
    """RDBStorage, quicker; and where it gives up reports and attributes at the first failure, this one waits.

    Parameters
    ----------
    url : str
    engine_kwargs : dict
        As RDBStorage takes them.
    patience : Patience
    spell : callable
        Makes a sentence of a failure of the database.

    Attributes
    ----------
    worker : str or None
        Who writes; a trial that was claimed is written by nobody else.
    unread : set of str
        Users' attributes that are left out where all trials of a study are read: a worker keeps them all in memory.
    """

    def __init__(
        self,
        url: str,
        engine_kwargs: dict[str, Any],
        patience: Patience,
        *,
        spell: Callable[[Exception], SearchError],
    ) -> None:
        self._held: _Rows | None = None  # what waits to be written
        self.patience, self._spell = patience, spell
        self.worker: str | None = None
        self.unread: frozenset[str] = frozenset()
        # Whoever opens it has compared the tables' version already; to do so takes two more connections at once.
        super().__init__(url, engine_kwargs=engine_kwargs, skip_compatibility_check=True, skip_table_creation=True)

    def patiently(self, work: Callable[[], _T]) -> _T:
        """Do the work, again while the database fails; it must be something that may happen twice.

        Raises
        ------
        StorageDown
            It still fails when patience is over.
        """
        return self.patience.with_database(work, spell=self._spell)

    def close(self) -> None:
        """Give the connections back; it may be used again, and then connects anew."""
        self.remove_session()
        self.engine.dispose()

    def on_behalf_of(self, worker: str | None, unread: frozenset[str]) -> Trials:
        """Make one on the same connections for another worker; several threads may have one each."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), worker=worker, unread=unread, _held=None)
        return other

    def operate(
        self, method: Callable[Concatenate[_L, _P], _T], ledger: _L, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Do what a ledger asks where the database is, which is here."""
        return method(ledger, *args, **kwargs)

    @_patient
    def clock(self) -> float:
        """Read the database's clock, seconds since 1970."""
        with _create_scoped_session(self.scoped_session) as session:
            return now(session)

    @_patient
    def forget(self, trial_id: int, key: str) -> None:
        """Remove a trial's system attribute, also of one that has finished, of which Optuna changes none."""
        with _create_scoped_session(self.scoped_session) as session:
            session.execute(delete(_SYSTEM).where((_SYSTEM.c.trial_id == trial_id) & (_SYSTEM.c.key == key)))

    @_patient
    def count_study_system_attrs(self, study_id: int, prefix: str) -> int:
        """Count the study's system attributes whose keys begin so."""
        rows = select(func.count()).select_from(_STUDY)
        rows = rows.where(_STUDY.c.study_id == study_id, _STUDY.c.key.startswith(prefix, autoescape=True))
        with _create_scoped_session(self.scoped_session) as session:
            return int(session.execute(rows).scalar_one())

    @_patient
    def own(self, trial_id: int) -> None:
        """Raise TrialTaken where the trial is another worker's."""
        with _create_scoped_session(self.scoped_session) as session:
            self._check(session, trial_id)

    def _check(self, session: Session, trial_id: int) -> None:
        """See that the trial may be written by this worker, until the transaction ends."""
        # The ledger locks a trial before it takes it from a silent worker, so it waits for us, or we for it.
        rows = select(_TRIALS.c.state).where(_TRIALS.c.trial_id == trial_id).with_for_update(read=True, key_share=True)
        state = session.execute(rows).scalar()
        if state is None:
            raise KeyError(models.NOT_FOUND_MSG)
        if self.worker is not None:
            owner = session.execute(select(CLAIMS.c.worker).where(CLAIMS.c.trial_id == trial_id)).first()
            if owner is not None and owner[0] != self.worker:
                raise TrialTaken
        self.check_trial_is_updatable(trial_id, state)

    # What may be done twice: not the creation of trials, nor the write of a state, which is the ledger's.
    get_all_studies = _patient(RDBStorage.get_all_studies)
    get_study_directions = _patient(RDBStorage.get_study_directions)
    get_study_id_from_name = _patient(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _patient(RDBStorage.get_study_name_from_id)
    get_study_system_attrs = _patient(RDBStorage.get_study_system_attrs)
    get_study_user_attrs = _patient(RDBStorage.get_study_user_attrs)
    set_study_user_attr = _patient(RDBStorage.set_study_user_attr)

    @_patient
    def get_trial(self, trial_id: int) -> FrozenTrial:  # noqa: D102 - as in RDBStorage
        with _create_scoped_session(self.scoped_session) as session:
            found = _read(session, _TRIALS.c.trial_id == trial_id)
        if not found:
            raise KeyError(models.NOT_FOUND_MSG)
        return found[0]

    @_patient
    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        again = {number for number in included_trial_ids if number <= trial_id_greater_than}
        if states is not None or len(again) > _FEW:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        new = _TRIALS.c.trial_id > trial_id_greater_than
        with _create_scoped_session(self.scoped_session) as session:
            found = _read(
                session,
                (_TRIALS.c.study_id == study_id) & (or_(new, _TRIALS.c.trial_id.in_(sorted(again))) if again else new),
                self.unread,
            )
            if not found:
                models.StudyModel.find_or_raise_by_id(study_id, session)
        return found

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:  # noqa: D102
        number, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        row = {"step": step, "intermediate_value": number, "intermediate_value_type": kind}
        self._put(_REPORTS, {"trial_id": trial_id, **row})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: ANN401, D102
        self._put(_USER, {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: ANN401, D102
        self._put(_SYSTEM, {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)})

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ANN401, D102
        self._put(_STUDY, {"study_id": study_id, "key": key, "value_json": json.dumps(value)})

    @_patient
    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is None:  # this process has not met the parameter yet
            self.own(trial_id)
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, None)
            return
        check_distribution_compatibility(previous_distribution, distribution)
        row = {"param_name": param_name, "param_value": param_value_internal}
        self._put(_PARAMS, {"trial_id": trial_id, **row, "distribution_json": spelled(distribution)})

    def _put(self, table: Table, row: dict[str, Any]) -> None:
        if self._held is None:
            self._write([(table, row)])
        else:
            self._held.append((table, row))

    @_patient
    def _write(self, rows: _Rows) -> None:
        by_table: dict[Table, list[dict[str, Any]]] = defaultdict(list)
        for table, row in rows:
            by_table[table].append(row)
        with _create_scoped_session(self.scoped_session, ignore_integrity_error=True) as session:
            for trial_id in {row["trial_id"] for table, row in rows if table is not _STUDY}:
                self._check(session, trial_id)
            for table, several in by_table.items():
                _upsert(session, table, several)


@contextmanager
def together(storage: Trials) -> Iterator[None]:
    """Write what a trial or study is given in this block in one transaction at its end, unless the block fails.

    Parameters, attributes, reports; reads do not see them before.
    """
    rows: _Rows = []
    storage._held = rows
    try:
        yield
    finally:
        storage._held = None
    if rows:
        storage._write(rows)


def _upsert(session: Session, table: Table, rows: list[dict[str, Any]]) -> None:
    name = session.get_bind().dialect.name
    statement = postgresql.insert(table) if name == "postgresql" else sqlite.insert(table)
    keys = _KEYS[table]
    if table is _PARAMS:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    else:
        changed = {key: statement.excluded[key] for key in rows[0] if key not in keys}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=changed)
    session.execute(statement, rows)


def _read(session: Session, where: ColumnElement[bool], unread: Collection[str] = ()) -> list[FrozenTrial]:
    columns = (_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.state, _TRIALS.c.datetime_start)
    found = session.execute(select(*columns, _TRIALS.c.datetime_complete).where(where)).all()
    # After the trials, so that of a finished one everything is there.
    ids = [row[0] for row in found]
    of = ids if len(ids) <= _FEW else select(_TRIALS.c.trial_id).where(where)

    def details(table: Table, *names: str, by: str | None = None) -> dict[int, list[Any]]:
        statement = select(table.c.trial_id, *(table.c[name] for name in names)).where(
            table.c.trial_id.in_(of) if ids else false()
        )
        if table is _USER and unread:
            statement = statement.where(table.c.key.not_in(unread))
        gathered: dict[int, list[Any]] = defaultdict(list)
        for row in session.execute(statement.order_by(table.c[by]) if by else statement):
            gathered[row[0]].append(row)
        return gathered

    params = details(_PARAMS, "param_name", "param_value", "distribution_json", by="param_id")
    values = details(_VALUES, "value", "value_type", by="objective")
    reports = details(_REPORTS, "step", "intermediate_value", "intermediate_value_type")
    user, system = (details(table, "key", "value_json") for table in (_USER, _SYSTEM))
    value = models.TrialValueModel.stored_repr_to_value
    report = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    return [
        FrozenTrial(
            trial_id=one,
            number=number,
            state=state,
            value=None,
            values=[value(*row[1:]) for row in values[one]] or None,
            datetime_start=_local(start),
            datetime_complete=_local(complete),
            params={intern(row[1]): _distribution(row[3]).to_external_repr(row[2]) for row in params[one]},
            distributions={intern(row[1]): _distribution(row[3]) for row in params[one]},
            user_attrs={intern(row[1]): json.loads(row[2]) for row in user[one]},
            system_attrs={intern(row[1]): json.loads(row[2]) for row in system[one]},
            intermediate_values={row[1]: report(*row[2:]) for row in reports[one]},
        )
        for one, number, state, start, complete in sorted(found)
    ]


@lru_cache(maxsize=1024)  # ten thousand trials share a dozen; reading one from JSON takes longer than all else
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
