"""The files of a study: checkpoints of what runs, weights of its best trials; in a folder, or in S3.

Layout: ``checkpoints/STUDY/NUMBER-ATTEMPT/`` while a trial runs; afterwards its weights under their artifact's id, so
that the dashboard lists and serves them. A bucket has the same keys below its prefix, but one checkpoint a trial, and
each machine a folder for it in the cache folder: training writes there, `fetch` and `store` carry it down and up. Not
here: what a checkpoint holds (mlc_core); how S3 is spoken (bucket.py).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from mlc_core import BEST, cache_dir
from search.bucket import SCHEME, Bucket
from search.errors import BadStorage
from search.ledger import Claim
from search.options import Promote
from search.pareto import best_first
from search.storage import resolve_url
from search.study import Study

VARIABLE: Final = "MLC_ARTIFACTS"
_PREFIX: Final = "artifacts:"  # of the attribute in which Optuna notes an artifact

log = logging.getLogger(__name__)


def artifacts_folder(option: str | Path | None, storage_url: str | None) -> Path:
    """Find the folder: the option, else MLC_ARTIFACTS, else mlc-search-artifacts beside the SQLite file, else here.

    Parameters
    ----------
    option : str or Path, optional
        A folder, or ``s3://bucket/prefix``; then what is returned stands for the bucket on this machine.

    Raises
    ------
    BadStorage
        It cannot be made, or the bucket cannot be used.
    """
    named = str(option or os.environ.get(VARIABLE) or "")
    if named.startswith(SCHEME):
        return _folder_of(Bucket.parse(named))
    parsed = make_url(resolve_url(storage_url))
    beside = Path(parsed.database or "").parent if parsed.get_backend_name() == "sqlite" else Path()
    chosen = Path(named) if named else beside / "mlc-search-artifacts"
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Name another with --artifacts."
        raise BadStorage(f"The artifact folder {chosen} cannot be made: {error.strerror}. {hint}") from None
    return chosen.absolute()


def location(root: Path) -> str:
    """Spell where the files are, as `artifacts_folder` takes it on any machine."""
    bucket = _bucket_of(root)
    return str(root) if bucket is None else bucket.url


def artifact_store(root: Path) -> FileSystemArtifactStore | Bucket:
    """Make the store that Optuna and its dashboard speak to."""
    return _bucket_of(root) or FileSystemArtifactStore(root)


def checkpoint_folder(root: Path, study: Study, claim: Claim) -> Path:
    """Where the trial's fit keeps its state; each attempt has a folder of its own."""
    return _checkpoints(root, study) / f"{claim.number}-{claim.attempt}"


def fetch(root: Path, study: Study, claim: Claim) -> Path:
    """Bring a trial's checkpoint here, before its fit goes on: what earlier attempts left becomes this one's.

    A worker that was taken for dead and wakes up finds its folder gone, and writes nothing into this one.

    Returns
    -------
    Path
        As `checkpoint_folder`.

    Raises
    ------
    OSError
        The bucket cannot be used, or the folder is not there.
    """
    folder, bucket = checkpoint_folder(root, study, claim), _bucket_of(root)
    if bucket is None and not root.is_dir():  # nobody makes it anew where a disk is missing
        raise FileNotFoundError(errno.ENOENT, "The artifact folder is not there", str(root))
    for earlier in _attempts(root, study, claim.number):
        if folder.exists() and earlier != folder:
            shutil.rmtree(earlier)
        elif earlier != folder:
            earlier.rename(folder)
    if bucket is not None:
        bucket.pull(_above(root, study, claim.number), folder)
    return folder


def store(root: Path, study: Study, claim: Claim) -> None:
    """Carry a trial's checkpoint to where every machine finds it, after an epoch; in a folder it is there already.

    Raises
    ------
    OSError
        The bucket cannot be used.
    TrialTaken
        The trial is another worker's by now.
    """
    if (bucket := _bucket_of(root)) is not None:
        study.storage.own(claim.trial_id)
        bucket.push(checkpoint_folder(root, study, claim), _above(root, study, claim.number))


def keep_weights(root: Path, study: Study, trial_id: int, folder: Path) -> None:
    """Make the weights in a checkpoint folder an artifact of the trial, which must be running still."""
    attach(root, study, trial_id, folder / BEST)


def attach(root: Path, study: Study, trial_id: int, file: Path) -> None:
    """Make a file an artifact of the trial, which must be running still, in place of one of the same name."""
    storage = study.optuna._storage
    study.storage.own(trial_id)
    trial = storage.get_trial(trial_id)
    upload_artifact(artifact_store=artifact_store(root), file_path=str(file), study_or_trial=trial, storage=storage)
    for earlier in _named(trial, file.name):
        _remove(root, earlier)  # an attempt that died after this and before it finished
        _forget(study, trial_id, earlier)


def keep_only_best(root: Path, study: Study) -> None:
    """Remove the weights of all complete trials but the best; how many those are, and how large, the study says.

    The best of all is kept however large it is, and with two objectives the whole front however many it has.
    """
    complete = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ranked, on_front = best_first(complete, study.declaration)
    most = max(study.declaration.keep, on_front)
    kept = [(place, trial, artifact) for place, trial in enumerate(ranked) for artifact in weights_of(trial)]
    sizes = _sizes(root, [artifact for _, _, artifact in kept])
    room = study.declaration.keep_mb * 1_000_000
    for place, trial, artifact in kept:
        if artifact not in sizes:  # Optuna's memory of a finished trial names what is long gone
            continue
        room -= sizes[artifact]
        if place >= most or (place and room < 0):
            _remove(root, artifact)
            _forget(study, trial._trial_id, artifact)


def weights_of(trial: FrozenTrial) -> list[str]:
    """Ids of the artifacts that are the trial's weights; each is a file's name in the folder."""
    return _named(trial, BEST)


def weights_path(root: Path, trial: FrozenTrial) -> Path | None:
    """Where the trial's weights are, by now on this machine; None where they were not kept.

    Raises
    ------
    OSError
        The bucket cannot be used.
    """
    bucket = _bucket_of(root)
    for artifact in weights_of(trial):
        file = root / artifact
        if file.exists() if bucket is None else bucket.get(artifact, file):
            return file
    return None


def clear(root: Path, study: Study, number: int) -> None:
    """Remove a trial's checkpoints, as when it has finished; what cannot be removed now, `sweep` removes."""
    for folder in _attempts(root, study, number):
        shutil.rmtree(folder, ignore_errors=True)
    if (bucket := _bucket_of(root)) is not None:
        try:
            for key in bucket.sizes(f"{_above(root, study, number)}/"):
                bucket.remove(key)
        except OSError as error:
            log.info("checkpoints of trial %d are left for the next run: %s", number, error)


def keep_checkpoints(root: Path, study: Study, paused: Iterable[int]) -> None:
    """Keep the checkpoints of paused trials as far as the study gives them room; a trial without begins again.

    Parameters
    ----------
    paused : iterable of int
        Numbers of the paused trials, those first that need theirs most.

    Raises
    ------
    OSError
        The bucket cannot be used.
    """
    if not isinstance(options := study.declaration.pruner, Promote):
        return
    room = options.paused_mb * 1_000_000
    for number in paused:
        room -= _checkpoint_bytes(root, study, number)
        if room < 0:
            clear(root, study, number)


def sweep(root: Path, study: Study) -> None:
    """Remove the checkpoints of trials that have finished, which a killed worker left.

    Raises
    ------
    OSError
        The bucket cannot be used.
    """
    finished = {trial.number for trial in study.optuna.get_trials(deepcopy=False) if trial.state.is_finished()}
    for number in finished & _with_checkpoints(root, study):
        clear(root, study, number)


def remove_all(root: Path, study: Study) -> None:
    """Remove every file of the study, as before it is deleted.

    Raises
    ------
    OSError
        The bucket cannot be used.
    """
    for trial in study.optuna.get_trials(deepcopy=False):
        for artifact in _named(trial, None):
            _remove(root, artifact)
    for number in _with_checkpoints(root, study):
        clear(root, study, number)
    shutil.rmtree(_checkpoints(root, study), ignore_errors=True)


def _folder_of(bucket: Bucket) -> Path:
    """Where the bucket's files lie on this machine; its name says which bucket, whatever happens to the folder."""
    try:
        bucket.check()
    except OSError as error:
        hint = "Look at the bucket's name, AWS_ENDPOINT_URL and the credentials: AWS_PROFILE, or AWS_ACCESS_KEY_ID."
        raise BadStorage(f"{bucket.url} cannot be used: {error.strerror}. {hint}") from None
    folder = cache_dir().absolute() / "s3" / quote(bucket.url, safe="")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _bucket_of(root: Path) -> Bucket | None:
    """Tell which bucket a folder stands for; None: it is a folder."""
    named = unquote(root.name)
    return Bucket.parse(named) if root.parent.name == "s3" and named.startswith(SCHEME) else None


def _checkpoints(root: Path, study: Study) -> Path:
    return root / "checkpoints" / study.identity


def _key(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _attempts(root: Path, study: Study, number: int) -> list[Path]:
    """List the folders of a trial's attempts, the newest first."""
    found = _checkpoints(root, study).glob(f"{number}-*")
    return sorted(found, key=lambda folder: int(folder.name.partition("-")[2]), reverse=True)


def _above(root: Path, study: Study, number: int) -> str:
    """Where a bucket has the checkpoint of a trial, whichever attempt made it."""
    return _key(root, _checkpoints(root, study) / str(number))


def _with_checkpoints(root: Path, study: Study) -> set[int]:
    """Numbers of the trials that have checkpoints, here or in the bucket."""
    folder, bucket = _checkpoints(root, study), _bucket_of(root)
    names = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    if bucket is not None:
        below = f"{_key(root, folder)}/"
        names |= {key.removeprefix(below).partition("/")[0] for key in bucket.sizes(below, deep=True)}
    numbers = {name.partition("-")[0] for name in names}
    return {int(number) for number in numbers if number.isdecimal()}


def _checkpoint_bytes(root: Path, study: Study, number: int) -> int:
    if (bucket := _bucket_of(root)) is not None:
        return sum(bucket.sizes(f"{_above(root, study, number)}/").values())
    files = [file for folder in _attempts(root, study, number) for file in folder.glob("*")]
    return sum(file.stat().st_size for file in files if file.exists())


def _sizes(root: Path, artifacts: Iterable[str]) -> dict[str, int]:
    """Bytes of those artifacts that are there."""
    if (bucket := _bucket_of(root)) is not None:
        return bucket.sizes()  # of all at one request, not one by one
    return {artifact: (root / artifact).stat().st_size for artifact in artifacts if (root / artifact).exists()}


def _named(trial: FrozenTrial, file: str | None) -> list[str]:
    """Ids of the trial's artifacts of this file name, or of all."""
    artifacts = {key: json.loads(value) for key, value in trial.system_attrs.items() if key.startswith(_PREFIX)}
    return [key.removeprefix(_PREFIX) for key, meta in artifacts.items() if file in (None, meta["filename"])]


def _remove(root: Path, artifact: str) -> None:
    try:
        artifact_store(root).remove(artifact)
    except ArtifactNotFound:
        log.info("artifact %s was removed already", artifact)
    (root / artifact).unlink(missing_ok=True)  # of a bucket's what was fetched from there


def _forget(study: Study, trial_id: int, artifact: str) -> None:
    # Optuna changes no attribute of a finished trial, but a link to a file that is gone helps nobody.
    study.storage.forget(trial_id, f"{_PREFIX}{artifact}")
