"""What is read from a database or file that others can write: plain Optuna 5.0.0, and we; and files that stay for ever.

The table of all holes is in test_plain_optuna.py.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.samplers import CmaEsSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._base import BaseJournalSnapshot
from optuna.trial import TrialState, create_trial

from search.errors import BadStorage
from search.ledger import Claim
from search.objective import begin
from search.options import SAMPLERS
from search.storage import connect
from search.study import open_study
from search.trials import together
from tests import small
from tests.contracts.doomed import end_of, plain

NAME = "holes"


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._canary),)


def write_to_a_full_disk(file: str) -> None:
    """Begin a line of the journal on a disk that has room for its beginning only."""
    study = optuna.load_study(storage=JournalStorage(JournalFileBackend(file)), study_name=NAME)
    room = Path(file).stat().st_size + 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    study.set_user_attr("note", "x" * 100)


def test_plain_optunas_journal_cannot_be_read_any_more_after_a_write_was_cut_short(tmp_path: Path) -> None:
    file = str(tmp_path / "journal.log")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(file)), study_name=NAME)
    assert end_of(write_to_a_full_disk, file) == 1

    with pytest.raises(AttributeError):  # there is room again, but half a line swallows the next
        study.ask()
    with pytest.raises(json.JSONDecodeError):
        study.set_user_attr("note", "y")
    with pytest.raises(json.JSONDecodeError):  # and from now on nobody can open it
        JournalStorage(JournalFileBackend(file))


class Snapshots(JournalFileBackend, BaseJournalSnapshot):
    """A journal with snapshots beside it, as Optuna's journal in Redis has them."""

    def save_snapshot(self, snapshot: bytes) -> None:
        Path(f"{self._file_path}.snapshot").write_bytes(snapshot)

    def load_snapshot(self) -> bytes | None:
        return Path(f"{self._file_path}.snapshot").read_bytes()


def test_opening_plain_optunas_journal_runs_what_its_snapshot_holds(tmp_path: Path) -> None:
    backend = Snapshots(str(tmp_path / "journal.log"))
    backend.save_snapshot(pickle.dumps(Hostile(tmp_path / "canary")))

    JournalStorage(backend)

    assert (tmp_path / "canary").is_dir()


@pytest.mark.parametrize("url", ["journal.log", "./journal.log", "journal:///journal.log", "redis://localhost:6379"])
def test_a_journal_is_refused_with_what_can_be_used_instead(url: str) -> None:
    with pytest.raises(BadStorage, match=r"Write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE\."):
        connect(url)


def test_plain_optunas_cma_es_runs_what_the_database_holds(storage_url: str, tmp_path: Path) -> None:
    pytest.importorskip("cmaes", reason="pip install 'mlc-search[test]' brings it")
    space: Any = {name: optuna.distributions.FloatDistribution(0, 1) for name in "xy"}
    hostile = {"cma:optimizer:0": pickle.dumps(Hostile(tmp_path / "canary")).hex()}
    with plain(storage_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME, sampler=CmaEsSampler(n_startup_trials=1))
        params = {"x": 0.5, "y": 0.5}
        study.add_trial(create_trial(params=params, distributions=space, value=1.0, system_attrs=hostile))

        study.ask().suggest_float("x", 0, 1)

    assert (tmp_path / "canary").is_dir()


PREFIXES = ("cma", "cmawm", "sepcma", "tpe", "gp", "qmc", "BaseGASampler", "NSGAIISampler", "mlc")
SUFFIXES = ("optimizer:0", "relative_params:0", "generation", "parent:0", "sampler", "state")
KEYS = [f"{prefix}:{suffix}" for prefix in PREFIXES for suffix in SUFFIXES]


def draw_all(url: str, files: list[str], hostile: str) -> None:
    unpickled: list[object] = []
    sys.addaudithook(lambda event, args: unpickled.append(args) if event == "pickle.find_class" else None)
    for file in files:
        draw(url, file, hostile)
    sys.exit(7 if unpickled else 0)


def draw(url: str, toml: str, hostile: str) -> None:
    """Claim and draw eight trials in a study whose rows hold pickles wherever a sampler might look for one."""
    with open_study(toml, url, create=True) as study:
        study_id = study.optuna._study_id
        with together(study.storage):
            for key in KEYS:
                study.storage.set_study_system_attr(study_id, key, hostile)
        study.ledger.open_budget(20)
        for number in range(8):
            claim = study.ledger.claim("w")
            assert isinstance(claim, Claim)
            trial, spec, _ = begin(study, claim, precision="fp32")
            assert spec["params"]["lr"] > 0
            with together(study.storage):
                for key in KEYS:
                    study.storage.set_trial_user_attr(claim.trial_id, key, hostile)
                    study.storage.set_trial_system_attr(claim.trial_id, key, hostile)
                trial.report(1.0 - number / 20, step=1)
            trial.should_prune()
            study.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=1.0 - number / 20)
        assert study.optuna.trials[0].system_attrs["cma:optimizer:0"] == hostile


def test_no_sampler_that_a_study_can_name_unpickles_anything(sqlite_url: str, tmp_path: Path) -> None:
    files = []
    for sampler in SAMPLERS:
        file = tmp_path / f"{sampler}.toml"
        toml = small.declare(tmp_path, sampler=sampler).read_text()
        file.write_text("threads = 1\n" + toml.replace('name = "small"', f'name = "{sampler}"'))
        files.append(str(file))
    hostile = pickle.dumps(Hostile(tmp_path / "canary")).hex()

    assert end_of(draw_all, sqlite_url, files, hostile) == 0

    assert not (tmp_path / "canary").exists()


def test_plain_optuna_keeps_the_files_of_a_study_that_is_deleted(sqlite_url: str, tmp_path: Path) -> None:
    folder, file = tmp_path / "artifacts", tmp_path / "weights"
    folder.mkdir()
    file.write_bytes(bytes(1000))
    with plain(sqlite_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        for _ in range(3):
            trial = study.ask()
            store = FileSystemArtifactStore(folder)
            upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial)
            study.tell(trial, 0.5)

        optuna.delete_study(study_name=NAME, storage=storage)

    assert sum(path.stat().st_size for path in folder.iterdir()) == 3000
