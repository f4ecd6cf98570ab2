"""A trial of two objectives whose worker is killed goes on to both of its values; so does one that pauses."""

from __future__ import annotations

import json
from pathlib import Path

import optuna

from tests import small, weighed
from tests.crash.test_killed_search import run_while_workers_are_killed
from tests.search.test_run import alone_as


def test_a_killed_trial_keeps_both_values_to_the_bit(storage_url: str, tmp_path: Path) -> None:
    file = weighed.declare(tmp_path, epochs=6, backbones=("resnet10",))
    run_while_workers_are_killed(file, folder=tmp_path, storage=storage_url, trials=1)

    shown = small.call("show", 0, "--study", weighed.NAME, "--json", folder=tmp_path, storage=storage_url)
    row = json.loads(shown.stdout)
    assert "was killed by SIGKILL" in row["failures"][0]
    assert row["value"] == alone_as(row)
    storage = optuna.storages.RDBStorage(storage_url.replace("postgresql://", "postgresql+psycopg://"))
    [trial] = optuna.load_study(study_name=weighed.NAME, storage=storage).trials
    assert trial.values == [row["value"], row["size_mb"]]
    storage.remove_session()
    storage.engine.dispose()


def test_a_paused_trial_goes_on_to_both_values(sqlite_url: str, tmp_path: Path) -> None:
    # One trial alone pauses at its rungs, after epochs 1 and 2, and goes on as nothing else is left.
    file = weighed.declare(tmp_path, epochs=4, pruner="promote", backbones=("resnet10",), against="latency")
    small.call("run", "--study", file, "--trials", 1, "--workers", 1, folder=tmp_path, storage=sqlite_url)
    [trial] = optuna.load_study(study_name=weighed.NAME, storage=sqlite_url).trials
    assert trial.system_attrs["mlc:paused"] == 2
    assert trial.values == [min(trial.intermediate_values.values()), trial.user_attrs["latency_ms"]]
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
