"""A study as we keep it: declaration, storage and ledger around one Optuna study. Opens and enqueues.

Not here: what people read of a study (views.py); its files (artifacts.py).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.storages import get_storage
from optuna.study._frozen import FrozenStudy

from mlc_core import OBJECTIVES, SCHEDULER_KEYS, Direction, Params, Value
from search import declaration as declarations
from search.declaration import BUILT_IN, Declaration
from search.errors import BadDeclaration, StorageDown, StudyChanged, StudyNotFound
from search.ledger import Ledger
from search.paper import PaperTrial
from search.patience import Patience
from search.space import outside
from search.storage import close, connect, resolve_url
from search.strategy import pruner
from search.trials import PAPER, Trials

DECLARATION: Final = "mlc:declaration"  # study attribute: the declaration as JSON
IDENTITY: Final = "mlc:id"  # study attribute: names the study's files; another study of this name has another
DATA: Final = "mlc:data"  # study attribute: where its data came from, their fingerprint and splits, as JSON
PRECISION: Final = "mlc:precision"  # study attribute: what the first worker's measurement chose for all
THREADS: Final = "mlc:threads"  # study attribute: CPU threads of a trial, where the declaration leaves them open
CONFIRMS: Final = "mlc:confirms"  # study attribute: the study whose best trials this one repeats; it has no search
FIT: Final = "fit"  # trial attribute: the fit's parameters, epochs and seed
COMPUTE: Final = "compute"  # trial attribute: precision and threads, which decide the last bits
METRICS: Final = "metrics"  # trial attribute: by name, one value an epoch
SECONDS: Final = "seconds"  # trial attribute: spent training, over all attempts
METRIC_NAMES: Final = "study:metric_names"  # study's system attribute, Optuna's: what its dashboard calls objectives
FOR_PEOPLE: Final = frozenset({FIT, COMPUTE, METRICS, SECONDS})  # of other trials, a worker reads none of these
DIVERGED: Final = "diverged"  # trial attribute: why the loss could not be used


@dataclass(frozen=True, slots=True)
class Study:
    """One open study."""

    declaration: Declaration  # with the threads that were settled until it was opened
    identity: str
    storage: Trials
    optuna: optuna.Study
    ledger: Ledger

    @property
    def name(self) -> str:
        """Its name in the database."""
        return str(self.optuna.study_name)

    @property
    def threads(self) -> int:
        """CPU threads of a trial: as declared, else as remembered; KeyError before anybody settled them."""
        return self.declaration.threads or int(self.optuna.user_attrs[THREADS])


@contextmanager
def open_study(
    reference: str | Declaration,
    storage_url: str | None,
    *,
    overrides: Mapping[str, int] | None = None,
    create: bool = False,
    confirms: str | None = None,
    patience: Patience | None = None,
) -> Iterator[Study]:
    """Open a study for as long as the context lasts.

    Parameters
    ----------
    reference : str or Declaration
        A study's name, or a declaration, or its file. A study in the database keeps the declaration that it was
        started with; a file, and each override, must agree with that.
    storage_url : str, optional
        As `search.storage.resolve_url` takes it.
    overrides : mapping, optional
        Values from the command line that win over the file's, such as ``{"epochs": 3}``.
    create : bool
        Whether a study that is not there is started, where its declaration is known.
    confirms : str, optional
        Name of the study that one started now confirms: then it runs what is enqueued, and never draws.
    patience : Patience, optional
        How long to wait for a database that does not answer, see `search.storage.connect`.

    Raises
    ------
    StudyNotFound, StudyChanged, BadDeclaration, BadStorage, StorageDown
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what matters of its lines, the study holds
    wanted = overrides or {}
    if isinstance(reference, str) and is_file(reference):
        reference = declarations.read(Path(reference), overrides=wanted)
    storage = connect(resolve_url(storage_url), create=create, patience=patience)
    try:
        yield _open(storage, reference, wanted, create=create, confirms=confirms)
    finally:
        close(storage)


def declared(reference: str, storage_url: str | None) -> Declaration:
    """Read a declaration: a file's, a study's, or one that travels with the package and has no study yet.

    Raises
    ------
    StudyNotFound, BadDeclaration, BadStorage, StorageDown
    """
    if is_file(reference):
        return declarations.read(Path(reference))
    try:
        with open_study(reference, storage_url) as study:
            return study.declaration
    except (StudyNotFound, StorageDown):
        if reference not in BUILT_IN:
            raise
        return declarations.built_in(reference)


def is_outdated(study: Study) -> bool:
    """Tell whether the study was extended since it was opened: then its trials are not to be drawn by what is known.

    Asked by whoever runs one of its trials, it stays true or false: a study with a running trial is not extended.
    """
    text = study.storage.get_study_user_attrs(study.optuna._study_id)[DECLARATION]
    declared = declarations.from_table(json.loads(text), where=f"study {study.name!r}")
    return bool(declarations.differences(replace(declared, threads=study.declaration.threads), study.declaration))


def study_names(storage: Trials) -> list[str]:
    """List the studies in the database that were started by mlc-search, by name."""
    return sorted(study.study_name for study in storage.get_all_studies() if DECLARATION in study.user_attrs)


def enqueue_paper(study: Study, trials: Iterable[PaperTrial]) -> dict[int, bool]:
    """Put documented trials in front of the queue; one that the study ever had is left alone.

    Returns
    -------
    dict
        For each trial's number whether it was added.

    Raises
    ------
    BadDeclaration
        The study's space would never draw one of them; nothing was added.
    """
    specs = [(trial, _replay(study, trial)) for trial in trials]
    searched = {*study.declaration.space, *SCHEDULER_KEYS}
    return {
        trial.number: study.ledger.enqueue(
            trial.key,
            params={key: value for key, value in spec["params"].items() if key in searched},
            user_attrs={PAPER: trial.number, FIT: spec},
        )
        is not None
        for trial, spec in specs
    }


def paper_params(declaration: Declaration, trial: PaperTrial) -> Params:
    """Complete a documented trial: what it leaves open is as the study fixes it, else as a fit's default is."""
    searched = {"scheduler", *SCHEDULER_KEYS}
    fixed = {key: value for key, value in declaration.fixed.items() if key not in searched}
    return Params.from_flat({**fixed, **trial.params})


def fit_spec(declaration: Declaration, flat: Mapping[str, Value], *, seed: int) -> dict[str, Any]:
    """Spell what a fit is given, whether its parameters were drawn or a replay brings them along."""
    return {"params": Params.from_flat(flat).to_flat(), "epochs": declaration.epochs, "seed": seed}


def _replay(study: Study, trial: PaperTrial) -> dict[str, Any]:
    flat: dict[str, Value] = paper_params(study.declaration, trial).to_flat()
    if (stranger := outside(study.declaration, flat)) is not None:
        problem = f"paper trial {trial.number} has {stranger}, which this study would never draw. "
        raise BadDeclaration(f"study {study.name!r}", "space", problem + "Replay it in the study 'default'.")
    return fit_spec(study.declaration, flat, seed=trial.seed)


def is_file(reference: str) -> bool:
    """Tell whether it names a declaration's file, not a study."""
    return reference.endswith(".toml") or "/" in reference


def _open(
    storage: Trials,
    wanted: Declaration | str,
    overrides: Mapping[str, int],
    *,
    create: bool,
    confirms: str | None,
) -> Study:
    name = wanted if isinstance(wanted, str) else wanted.name
    there = {study.study_name: study for study in storage.get_all_studies()}
    fresh = declarations.built_in(name) if wanted in BUILT_IN else wanted
    cached = get_storage(storage)
    if name not in there or _is_bare(storage, there[name], fresh):
        if isinstance(fresh, str) or not create:
            raise StudyNotFound(name, study_names(storage))
        wanted = declarations.built_in(name, overrides=overrides) if wanted in BUILT_IN else fresh
        optuna.create_study(storage=cached, study_name=name, directions=_directions(fresh), load_if_exists=True)
    elif DECLARATION not in storage.get_study_user_attrs(there[name]._study_id):  # read anew: it may just have come
        problem = "it has none, so another program made it. Name a study that mlc-search started."
        raise BadDeclaration(f"study {name!r}", "declaration", problem)
    study_id = cached.get_study_id_from_name(name)
    ledger = Ledger(storage, study_id)
    if confirms is not None:
        ledger.remember(CONFIRMS, confirms)
    text: str = (
        storage.get_study_user_attrs(study_id)[DECLARATION]
        if isinstance(wanted, str)
        else ledger.remember(DECLARATION, json.dumps(wanted.to_table()))
    )
    declared = declarations.from_table(json.loads(text), where=f"study {name!r}")
    if isinstance(wanted, str):
        wanted = declarations.from_table({**declared.to_table(), **overrides}, where="the command line")
    if declared.threads is None:
        # Settled once: by a measurement, or by a declaration that names them, as that of a confirmation does.
        known = ledger.remember(THREADS, str(wanted.threads)) if create and wanted.threads else None
        known = known or storage.get_study_user_attrs(study_id).get(THREADS)
        declared = replace(declared, threads=int(known)) if known else declared
        wanted = replace(wanted, threads=wanted.threads or declared.threads)
    if changes := declarations.differences(declared, wanted):
        raise StudyChanged(name, changes)
    study = optuna.load_study(study_name=name, storage=cached, pruner=pruner(declared))
    if create and declared.against and study.metric_names is None:
        storage.set_study_system_attr(study_id, METRIC_NAMES, [declared.objective, declared.against])
    identity = ledger.remember(IDENTITY, uuid.uuid4().hex)
    draws = CONFIRMS not in storage.get_study_user_attrs(study_id)
    return Study(declared, identity, storage, study, Ledger(storage, study_id, retries=declared.retries, draws=draws))


def _directions(declaration: Declaration) -> list[Direction]:
    """List where the objectives are to go; a second one is always the lower the better."""
    first = OBJECTIVES[declaration.objective]
    return [first, "minimize"] if declaration.against else [first]


def _is_bare(storage: Trials, study: FrozenStudy, wanted: Declaration | str) -> bool:
    """Tell whether it looks as ours do while whoever creates it is, or was, between the two steps."""
    made = [direction.name.lower() for direction in study.directions]
    expected = [_directions(wanted)] if isinstance(wanted, Declaration) else [[one] for one in OBJECTIVES.values()]
    ours = made in expected and DECLARATION not in study.user_attrs
    return ours and not storage.get_n_trials(study._study_id)
