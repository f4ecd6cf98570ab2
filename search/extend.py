"""A study's space grows without losing its history: the declaration and what its trials store change together.

Optuna stores a parameter's distribution with every trial and refuses another one ("CategoricalDistribution does not
support dynamic value space": optuna#372, #2199, #2328), and its samplers model a parameter over trials of one
distribution. So earlier trials are given the new one, in the transaction that changes the declaration. Not here: what a
declaration may say (declaration.py); what a trial draws (space.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.trial import TrialState
from sqlalchemy import Table, bindparam, func, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from mlc_core import SCHEDULER_KEYS, Value
from search import declaration as declarations
from search.declaration import Declaration, differences
from search.errors import BadDeclaration, BadStorage, SearchError, StorageDown, StudyNotFound
from search.footprints import CONSTRAINTS, LATENCY, SIZE, constraints, read
from search.ledger import GRACE
from search.space import constants, distribution, domains, outside
from search.storage import PROXIES, resolve_url, transact
from search.study import CONFIRMS, DECLARATION, FIT, Study, is_file, open_study
from search.tables import BUDGETS, CLAIMS, now

CHANGES: Final = "mlc:changes"  # study attribute: each extension, oldest first
FIXED_PARAMS: Final = "fixed_params"  # trial's system attribute, Optuna's: what an enqueued one is to have
# What makes trials comparable, and resumed ones the same.
_FOR_GOOD: Final = ("objective", "against", "epochs", "seed", "threads")

_STUDIES: Final[Table] = models.StudyModel.__table__
_OF_STUDY: Final[Table] = models.StudyUserAttributeModel.__table__
_TRIALS: Final[Table] = models.TrialModel.__table__
_PARAMS: Final[Table] = models.TrialParamModel.__table__
_USER: Final[Table] = models.TrialUserAttributeModel.__table__
_SYSTEM: Final[Table] = models.TrialSystemAttributeModel.__table__


class CannotExtend(SearchError):
    """The study cannot become what the changed declaration says."""

    def __init__(self, study: str, problem: str) -> None:
        super().__init__(f"Study {study!r} cannot be extended: {problem}")


@dataclass(frozen=True, slots=True)
class Change:
    """One extension of a study."""

    at: datetime
    trials: int  # that the study had
    differences: tuple[str, ...]  # one line a key, as `search.declaration.differences` spells them

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return {**asdict(self), "at": self.at.isoformat(), "differences": list(self.differences)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Earlier:
    """What a study stores of one of its trials."""

    trial_id: int
    number: int
    state: TrialState
    params: Mapping[str, Value]  # drawn so far
    stored: Mapping[str, tuple[int, float, str]]  # of each: its row, Optuna's internal value, and the distribution
    fit: Mapping[str, Value]  # all that it trains with; empty before it is known
    fixed: Mapping[str, Value] | None  # what it was enqueued with

    @property
    def begun(self) -> bool:
        """Whether its parameters are stored as drawn; else they are those to be drawn."""
        return bool(self.params) or self.fixed is None or self.state != TrialState.WAITING

    def grown(self, before: Declaration, after: Declaration) -> dict[str, Value]:
        """Give what it trains with of the parameters that come into the space."""
        known = {**(self.fixed or {}), **self.params}
        if not known and not self.fit:
            return {}  # it waits to be drawn
        settled = {**known, **self.fit}
        scheduler = settled.get("scheduler", constants(before, None).get("scheduler"))
        trains_with = {**constants(before, scheduler), **settled}
        searched = domains(before, scheduler)
        new = [key for key in domains(after, scheduler) if key not in searched]
        return {key: trains_with[key] for key in new if key in trains_with}


def extend_study(reference: str, storage_url: str | None, *, overrides: Mapping[str, int] | None = None) -> list[str]:
    """Let a study go on with the changed declaration of its file.

    Each earlier trial must lie in the new space; a parameter that comes into the space, it has as it trained with it:
    with the fixed value, or a fit's default. Sampler, pruner, `keep` and `retries` may change, and so may domains:
    further choices in any order, wider ranges, a list instead of a range; narrower ones, if no trial is left outside.
    Limits may, too, where trials were measured: what is over one is told anew of each, and stays what it came to.
    The study that confirms this one changes with it.

    Parameters
    ----------
    reference : str
        The file.
    storage_url : str, optional
        As `search.storage.resolve_url` takes it.
    overrides : mapping, optional
        As `search.study.open_study` takes them.

    Returns
    -------
    list of str
        What changed, a line a key; nothing where the study has this declaration already, or is not there yet.

    Raises
    ------
    CannotExtend
        Workers are at work on it, an earlier trial would lie outside, or what makes trials comparable would change;
        nothing was written.
    BadDeclaration, BadStorage, StorageDown
    """
    if not is_file(reference):
        problem = f"it wants the file of the changed declaration, such as --study mine.toml, not {reference!r}."
        raise BadDeclaration("the command line", "--extend", problem)
    wanted = declarations.read(Path(reference), overrides=overrides)
    url = resolve_url(storage_url)
    if make_url(url).drivername in PROXIES:
        raise BadStorage("--extend rewrites trials, which a storage proxy does not. Give it the database's own URL.")
    with ExitStack() as stack:
        try:
            study = stack.enter_context(open_study(wanted.name, url))
        except (StudyNotFound, StorageDown):
            return []  # whoever creates it, or cannot reach the database, says so
        study.ledger.recover()  # trials of workers that died do not run
        study_id, settled = study.optuna._study_id, study.declaration.threads
        wanted = replace(wanted, threads=wanted.threads or settled)
        before = replace(study.declaration, threads=settled or wanted.threads)
        for key in _FOR_GOOD:
            had, has = getattr(before, key), getattr(wanted, key)
            if had != has:
                raise CannotExtend(study.name, _apart(study.name, f"{key}: {had}, now {has}"))
        return transact(study.storage, lambda session: _extend(session, study_id, wanted))


def changes(study: Study) -> list[Change]:
    """List the extensions of a study, oldest first."""
    return [_read_change(row) for row in study.optuna.user_attrs.get(CHANGES, [])]


def _apart(study: str, difference: str) -> str:
    return (
        f"{difference}. Earlier trials could not be compared with later ones. Change that back; or start another study "
        f'(name = "..." in its file), whose first trials --warm-start {study!r} takes from this one.'
    )


def _extend(session: Session, study_id: int, wanted: Declaration) -> list[str]:
    """Rewrite the study and whichever confirms it."""
    before = _lock(session, study_id)
    after = replace(wanted, threads=before.threads)  # settled ones are remembered beside the declaration
    lines = differences(before, after)
    if not lines:
        return []
    _rewrite(session, study_id, before, after, lines)
    name = json.dumps(before.name)
    confirming = select(_OF_STUDY.c.study_id).where(_OF_STUDY.c.key == CONFIRMS, _OF_STUDY.c.value_json == name)
    for other_id in session.execute(confirming.order_by(_OF_STUDY.c.study_id)).scalars().all():
        own = _lock(session, other_id)
        kept = {key: getattr(own, key) for key in ("name", "pruner", "threads", "against", "limits")}
        same = replace(after, **kept)
        if also := differences(own, same):
            _rewrite(session, other_id, own, same, also)
    return lines


def _lock(session: Session, study_id: int) -> Declaration:
    """Keep trials from being begun in the study, and read its declaration."""
    study, attribute = _STUDIES.c, _OF_STUDY.c
    session.execute(select(study.study_id).where(study.study_id == study_id).with_for_update(key_share=True))
    # Plain Optuna pops a waiting trial without the study's lock.
    waiting = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.WAITING)
    session.execute(waiting.order_by(_TRIALS.c.trial_id).with_for_update())
    rows = select(attribute.value_json).where(attribute.study_id == study_id, attribute.key == DECLARATION)
    text = json.loads(session.execute(rows).scalar_one())
    return declarations.from_table(json.loads(text), where=f"study number {study_id}")


def _rewrite(session: Session, study_id: int, before: Declaration, after: Declaration, lines: list[str]) -> None:
    _refuse_work(session, study_id, before.name)
    _refuse_other_constants(before, after)
    earlier = _read_trials(session, study_id)
    rows = _Rows()
    for trial in earlier:
        grown = trial.grown(before, after)
        _refuse_outside(trial, grown, before, after)
        rows.take(trial, grown, after)
    rows.write(session)
    if before.limits != after.limits:
        _judge_anew(session, study_id, earlier, after)
    _set(session, study_id, DECLARATION, json.dumps(after.to_table()))
    change = Change(datetime.fromtimestamp(now(session), UTC), len(earlier), tuple(lines))
    _set(session, study_id, CHANGES, [*_get(session, study_id, CHANGES, []), change.to_table()])


def _judge_anew(session: Session, study_id: int, earlier: Iterable[_Earlier], after: Declaration) -> None:
    """Store of each trial by how much it is over the changed limits."""
    latencies, sizes = (_attributes(session, study_id, _USER, key) for key in (LATENCY, SIZE))
    constrained = _attributes(session, study_id, _SYSTEM, CONSTRAINTS)
    for trial in earlier:
        footprint = read(latencies.get(trial.trial_id), sizes.get(trial.trial_id))
        if footprint is None:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and after.limits:
                problem = f"its trial {trial.number} was never measured, so limits cannot be told of it. Start another "
                raise CannotExtend(after.name, problem + 'study (name = "..." in its file).')
            continue
        text = json.dumps(constraints(footprint, after.limits))
        if trial.trial_id in constrained:
            where = (_SYSTEM.c.trial_id == trial.trial_id) & (_SYSTEM.c.key == CONSTRAINTS)
            session.execute(update(_SYSTEM).where(where).values(value_json=text))
        else:
            session.execute(insert(_SYSTEM).values(trial_id=trial.trial_id, key=CONSTRAINTS, value_json=text))


class _Rows:
    """What is to be written of trials, each kind by one statement."""

    def __init__(self) -> None:
        self._changed: list[dict[str, Any]] = []
        self._added: list[dict[str, Any]] = []
        self._fixed: list[dict[str, Any]] = []
        self._spelled: dict[object, dict[str, tuple[BaseDistribution, str]]] = {}  # by scheduler

    def take(self, trial: _Earlier, grown: Mapping[str, Value], after: Declaration) -> None:
        """Spell a trial's parameters by the distributions of the new declaration."""
        scheduler = {**trial.params, **grown}.get("scheduler", constants(after, None).get("scheduler"))
        if scheduler not in self._spelled:
            ours = {key: distribution(key, domain) for key, domain in domains(after, scheduler).items()}
            self._spelled[scheduler] = {key: (one, distribution_to_json(one)) for key, one in ours.items()}
        for key, (one, text) in self._spelled[scheduler].items():
            if key in trial.stored:
                row, *stored = trial.stored[key]
                number = float(one.to_internal_repr(trial.params[key]))
                if stored != [number, text]:
                    self._changed.append({"row": row, "number": number, "text": text})
            elif key in grown and trial.begun:
                number = float(one.to_internal_repr(grown[key]))
                self._added.append(
                    {"trial_id": trial.trial_id, "param_name": key, "param_value": number, "distribution_json": text}
                )
        if grown and trial.fixed is not None and trial.state == TrialState.WAITING:
            self._fixed.append({"trial": trial.trial_id, "text": json.dumps({**grown, **trial.fixed})})

    def write(self, session: Session) -> None:
        """Write it."""
        connection = session.connection()
        if self._changed:
            change = update(_PARAMS).where(_PARAMS.c.param_id == bindparam("row"))
            change = change.values(param_value=bindparam("number"), distribution_json=bindparam("text"))
            connection.execute(change, self._changed)
        if self._added:
            connection.execute(insert(_PARAMS), self._added)
        if self._fixed:
            where = (_SYSTEM.c.trial_id == bindparam("trial")) & (_SYSTEM.c.key == FIXED_PARAMS)
            connection.execute(update(_SYSTEM).where(where).values(value_json=bindparam("text")), self._fixed)


def _refuse_work(session: Session, study_id: int, name: str) -> None:
    running = select(_TRIALS.c.number, CLAIMS.c.worker).outerjoin(CLAIMS, CLAIMS.c.trial_id == _TRIALS.c.trial_id)
    running = running.where(_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.RUNNING)
    found = session.execute(running.order_by(_TRIALS.c.number)).all()
    if strangers := [row.number for row in found if row.worker is None]:
        problem = (
            f"another program runs its trial {strangers[0]}, or died with it. End it there, by Optuna's study.tell."
        )
        raise CannotExtend(name, problem)
    if found:
        problem = f"worker {found[0].worker} is at work on trial {found[0].number}. Stop its workers first: Ctrl-C at "
        raise CannotExtend(name, problem + "their run, or SIGTERM. Their trials go on afterwards.")
    alive = (BUDGETS.c.study_id == study_id) & BUDGETS.c.closed.is_(False) & (BUDGETS.c.beat_at > now(session) - GRACE)
    if session.execute(select(func.count()).select_from(BUDGETS).where(alive)).scalar_one():
        problem = f"a run is at work on it, or was killed less than {GRACE:.0f} seconds ago. Stop it first, by Ctrl-C."
        raise CannotExtend(name, problem)


def _refuse_other_constants(before: Declaration, after: Declaration) -> None:
    """See that what no trial draws, neither earlier nor later, is what it was."""
    for scheduler in before.branches or [constants(before, None)["scheduler"]]:
        had, has = constants(before, scheduler), constants(after, scheduler)
        for key in had:
            if key in has and had[key] != has[key]:
                table = f"space.scheduler.{scheduler}" if key in SCHEDULER_KEYS else "space"
                problem = f"fixed.{key}: {had[key]!r}, now {has[key]!r}. Earlier trials trained with the former. "
                problem += f"Change that back, or search it: {key} = [{had[key]!r}, {has[key]!r}] in [{table}]."
                raise CannotExtend(before.name, problem)


def _refuse_outside(trial: _Earlier, grown: Mapping[str, Value], before: Declaration, after: Declaration) -> None:
    asked = trial.fixed or {} if trial.state == TrialState.WAITING else {}
    if outside(before, asked) is not None:
        asked = {}  # another program enqueued what the study never held
    has = {**asked, **trial.params, **grown}
    scheduler = has.get("scheduler", constants(before, None).get("scheduler"))
    stays = domains(after, scheduler)
    if (stranger := outside(after, {"scheduler": scheduler, **has} if scheduler else has)) is not None:
        key = stranger.split(" = ", maxsplit=1)[0]
        problem = f"its trial {trial.number} has {stranger}, which the new space does not hold. Let {key} hold it"
        problem += f", or leave {key} in [fixed]." if key in grown else "; to go without it, start another study."
        raise CannotExtend(before.name, problem)
    for key in domains(before, scheduler):
        if key in has and key not in stays:
            problem = f"its trial {trial.number} drew {key} = {has[key]!r}, and the new space does not search {key}. "
            raise CannotExtend(before.name, problem + "Leave it there; to go without it, start another study.")


def _read_trials(session: Session, study_id: int) -> list[_Earlier]:
    heads = session.execute(
        select(_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.state)
        .where(_TRIALS.c.study_id == study_id)
        .order_by(_TRIALS.c.number)
    ).all()
    mine = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id)
    fits, fixed = (_attributes(session, study_id, *of) for of in ((_USER, FIT), (_SYSTEM, FIXED_PARAMS)))
    params: dict[int, dict[str, Value]] = {}
    stored: dict[int, dict[str, tuple[int, float, str]]] = {}
    known: dict[str, BaseDistribution] = {}
    for row in session.execute(select(_PARAMS).where(_PARAMS.c.trial_id.in_(mine)).order_by(_PARAMS.c.param_id)):
        one = known.setdefault(row.distribution_json, json_to_distribution(row.distribution_json))
        params.setdefault(row.trial_id, {})[row.param_name] = one.to_external_repr(row.param_value)
        at = (row.param_id, row.param_value, row.distribution_json)
        stored.setdefault(row.trial_id, {})[row.param_name] = at
    return [
        _Earlier(
            trial_id=trial_id,
            number=number,
            state=state,
            params=params.get(trial_id, {}),
            stored=stored.get(trial_id, {}),
            fit=fits.get(trial_id, {}).get("params", {}),
            fixed=fixed.get(trial_id),
        )
        for trial_id, number, state in heads
    ]


def _attributes(session: Session, study_id: int, table: Table, key: str) -> dict[int, Any]:
    """Read an attribute of all trials."""
    mine = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id)
    found = select(table.c.trial_id, table.c.value_json).where(table.c.key == key, table.c.trial_id.in_(mine))
    return {row[0]: json.loads(row[1]) for row in session.execute(found)}


def _get(session: Session, study_id: int, key: str, default: Any) -> Any:  # noqa: ANN401 - JSON
    where = (_OF_STUDY.c.study_id == study_id) & (_OF_STUDY.c.key == key)
    text = session.execute(select(_OF_STUDY.c.value_json).where(where)).scalar()
    return default if text is None else json.loads(text)


def _set(session: Session, study_id: int, key: str, value: object) -> None:
    where, text = (_OF_STUDY.c.study_id == study_id) & (_OF_STUDY.c.key == key), json.dumps(value)
    if session.execute(select(_OF_STUDY.c.key).where(where)).first() is None:
        session.execute(insert(_OF_STUDY).values(study_id=study_id, key=key, value_json=text))
    else:
        session.execute(update(_OF_STUDY).where(where).values(value_json=text))


def _read_change(row: Mapping[str, Any]) -> Change:
    lines: Iterable[str] = row["differences"]
    return Change(datetime.fromisoformat(row["at"]), int(row["trials"]), tuple(lines))
