"""The files of a study: checkpoints of what runs, weights of its best trials. A folder, also Optuna's artifact store.

Layout: ``checkpoints/STUDY/NUMBER/`` while a trial runs; afterwards its weights under their artifact's id, so that
the dashboard lists and serves them. Not here: what a checkpoint holds (mlc_core).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Final, cast

from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, make_url

from mlc_core import BEST, cost
from search.errors import BadStorage
from search.storage import resolve_url, transact
from search.study import Study

VARIABLE: Final = "MLC_ARTIFACTS"
_PREFIX: Final = "artifacts:"  # of the attribute in which Optuna notes an artifact

log = logging.getLogger(__name__)


def artifacts_folder(option: Path | None, storage_url: str) -> Path:
    """Find the folder: the option, else MLC_ARTIFACTS, else mlc-search-artifacts beside the SQLite file, else here.

    Raises
    ------
    BadStorage
        It cannot be made.
    """
    parsed = make_url(resolve_url(storage_url))
    beside = Path(parsed.database or "").parent if parsed.get_backend_name() == "sqlite" else Path()
    chosen = option or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else beside / "mlc-search-artifacts")
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Name another with --artifacts."
        raise BadStorage(f"The artifact folder {chosen} cannot be made: {error.strerror}. {hint}") from None
    return chosen.absolute()


def checkpoint_folder(root: Path, study: Study, number: int) -> Path:
    """Where the trial's fit keeps its state."""
    return root / "checkpoints" / study.identity / str(number)


def keep_weights(root: Path, study: Study, trial_id: int, folder: Path) -> None:
    """Make the weights in a checkpoint folder an artifact of the trial, which must be running still."""
    attach(root, study, trial_id, folder / BEST)


def attach(root: Path, study: Study, trial_id: int, file: Path) -> None:
    """Make a file an artifact of the trial, which must be running still, in place of one of the same name."""
    store, storage = FileSystemArtifactStore(root), study.optuna._storage
    trial = storage.get_trial(trial_id)
    for earlier in _named(trial, file.name):
        _remove(store, earlier)  # an attempt that died after this and before it finished
        _forget(study, trial_id, earlier)
    upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial, storage=storage)


def keep_only_best(root: Path, study: Study) -> None:
    """Remove the weights of all complete trials but the best; how many those are, and how large, the study says.

    The best of all is kept however large it is.
    """
    complete = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    objective = study.declaration.objective
    ranked = sorted(complete, key=lambda trial: (cost(cast("float", trial.value), objective), trial.number))
    store = FileSystemArtifactStore(root)
    room = study.declaration.keep_mb * 1_000_000
    for place, trial in enumerate(ranked):
        for artifact in weights_of(trial):
            file = root / artifact
            if not file.exists():  # Optuna's memory of a finished trial names what is long gone
                continue
            room -= file.stat().st_size
            if place >= study.declaration.keep or (place and room < 0):
                _remove(store, artifact)
                _forget(study, trial._trial_id, artifact)


def weights_of(trial: FrozenTrial) -> list[str]:
    """Ids of the artifacts that are the trial's weights; each is a file's name in the folder."""
    return _named(trial, BEST)


def weights_path(root: Path, trial: FrozenTrial) -> Path | None:
    """Where the trial's weights are; None where they were not kept."""
    return next((root / artifact for artifact in weights_of(trial) if (root / artifact).exists()), None)


def clear(root: Path, study: Study, number: int) -> None:
    """Remove a trial's checkpoints, as when it has finished."""
    shutil.rmtree(checkpoint_folder(root, study, number), ignore_errors=True)


def sweep(root: Path, study: Study) -> None:
    """Remove the checkpoints of trials that have finished, which a killed worker left."""
    for trial in study.optuna.get_trials(deepcopy=False):
        if trial.state.is_finished():
            clear(root, study, trial.number)


def remove_all(root: Path, study: Study) -> None:
    """Remove every file of the study, as before it is deleted."""
    store = FileSystemArtifactStore(root)
    for trial in study.optuna.get_trials(deepcopy=False):
        for artifact in _named(trial, None):
            _remove(store, artifact)
    shutil.rmtree(root / "checkpoints" / study.identity, ignore_errors=True)


def _named(trial: FrozenTrial, file: str | None) -> list[str]:
    """Ids of the trial's artifacts of this file name, or of all."""
    artifacts = {key: json.loads(value) for key, value in trial.system_attrs.items() if key.startswith(_PREFIX)}
    return [key.removeprefix(_PREFIX) for key, meta in artifacts.items() if file in (None, meta["filename"])]


def _remove(store: FileSystemArtifactStore, artifact: str) -> None:
    try:
        store.remove(artifact)
    except ArtifactNotFound:
        log.info("artifact %s was removed already", artifact)


def _forget(study: Study, trial_id: int, artifact: str) -> None:
    # Optuna changes no attribute of a finished trial, but a link to a file that is gone helps nobody.
    attribute = models.TrialSystemAttributeModel
    where = (attribute.trial_id == trial_id) & (attribute.key == f"{_PREFIX}{artifact}")
    transact(study.storage, lambda session: session.execute(delete(attribute).where(where)))
