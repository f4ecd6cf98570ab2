"""A study whose objective is macro F1 or mAP: the highest is the best, everywhere that a person looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna.study import StudyDirection

from search.artifacts import weights_of
from search.signals import Stop
from search.study import METRICS, open_study
from search.worker import work
from tests.small import NAME, call, declare, rows


@pytest.mark.parametrize(("objective", "metric"), [("macro_f1", "macro_f1"), ("map", "mean_ap")])
def test_a_study_about_another_objective_keeps_and_shows_the_highest(
    objective: str, metric: str, tmp_path: Path, sqlite_url: str
) -> None:
    file = declare(tmp_path, pruner="none")
    (tmp_path / "artifacts").mkdir()
    file.write_text(f'objective = "{objective}"\n' + file.read_text().replace("keep = 2", "keep = 1"))
    with open_study(str(file), sqlite_url, create=True) as study:
        study.ledger.open_budget(4)
        assert work(study, name="worker", root=tmp_path / "artifacts", stop=Stop()) == 4
    table = rows(tmp_path, sqlite_url)
    values = [float(str(row["value"])) for row in table]
    with open_study(NAME, sqlite_url) as study:
        trials = study.optuna.trials
        assert study.optuna.direction == StudyDirection.MAXIMIZE
    for trial, value, row in zip(trials, values, table, strict=True):
        assert value == max(trial.user_attrs[METRICS][metric])
        assert row["val_loss"] == min(trial.user_attrs[METRICS]["val_loss"])
    best = values.index(max(values))
    assert [bool(weights_of(trial)) for trial in trials] == [number == best for number in range(4)]
    name = {"macro_f1": "macro F1", "map": "mAP"}[objective]
    said = call("status", "--study", NAME, folder=tmp_path, storage=sqlite_url).stdout
    assert f"Best {name}: {max(values):.4g}, trial {best}" in said
    listed = json.loads(
        call("trials", "--study", NAME, "--sort", "value", "--json", folder=tmp_path, storage=sqlite_url).stdout
    )
    assert [row["value"] for row in listed] == sorted(values, reverse=True)
    led = json.loads(call("best", "--study", NAME, "--json", folder=tmp_path, storage=sqlite_url).stdout)
    assert led["leaderboard"][0]["number"] == best
