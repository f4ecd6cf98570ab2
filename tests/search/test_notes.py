"""What the dashboard shows of a trial as it finishes, and which weights stay within the disk limit."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import fromstring

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from optuna_dashboard import save_plotly_graph_object
from optuna_dashboard._note import get_note_from_system_attrs

from mlc_core import EpochReport
from search.artifacts import remove_all, weights_of, weights_path
from search.notes import CURVES, curves, hang, note
from search.signals import Stop
from search.study import METRICS, open_study
from search.worker import work
from tests.small import NAME, declare

SVG = "{http://www.w3.org/2000/svg}"


def test_each_trial_leaves_a_note_and_its_curves_and_the_weights_stay_within_the_limit(
    tmp_path: Path, sqlite_url: str
) -> None:
    file = declare(tmp_path, epochs=2)
    # One network of 19.7 MB fits, two do not; the number alone would let all stay.
    file.write_text(file.read_text().replace("keep = 2", "keep = 9\nkeep_mb = 30"))
    root = tmp_path / "artifacts"
    root.mkdir()
    with open_study(str(file), sqlite_url, create=True) as study:
        study.ledger.open_budget(6)
        assert work(study, name="worker", root=root, stop=Stop()) == 6
    with open_study(NAME, sqlite_url) as study:  # Optuna remembers finished trials as they were
        trials = study.optuna.get_trials()
        attrs = study.optuna._storage.get_study_system_attrs(study.optuna._study_id)
        assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
        for trial in trials:
            metas = get_all_artifact_meta(trial, storage=study.optuna._storage)
            picture = next(meta for meta in metas if meta.filename == CURVES)
            assert picture.mimetype == "image/svg+xml"
            drawn = fromstring((root / picture.artifact_id).read_text())
            lines = [line.attrib["points"].split() for line in drawn.iter(f"{SVG}polyline")]
            assert [len(line) for line in lines] == [len(trial.user_attrs[METRICS]["val_loss"])] * 2
            body = get_note_from_system_attrs(attrs, trial._trial_id)["body"]
            ended = "Complete" if trial.state == TrialState.COMPLETE else "Pruned"
            assert body.startswith(f"{ended} after {trial.last_step} of 2 epochs")
            assert f"loss {min(trial.user_attrs[METRICS]['val_loss']):.4g}," in body
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = min(complete, key=lambda trial: (trial.value, trial.number))
        assert [trial.number for trial in trials if weights_of(trial)] == [best.number]
        assert (weights_path(root, best) or tmp_path).stat().st_size < 30_000_000
        assert len(complete) > 1
        remove_all(root, study)
    assert not [path for path in root.rglob("*") if path.is_file()]


@given(st.lists(st.tuples(st.floats(), st.floats(1e-9, 1e9)), min_size=1, max_size=40))
def test_whatever_the_losses_are_the_picture_stays_inside_its_frame(losses: list[tuple[float, float]]) -> None:
    training, validation = zip(*losses, strict=True)
    drawn = fromstring(curves({"training": training, "validation": validation}))
    shown = [line.attrib["points"].split() for line in drawn.iter(f"{SVG}polyline")]
    assert [len(line) for line in shown] == [
        sum(math.isfinite(loss) and loss > 0 for loss in line) for line in (training, validation)
    ]
    for point in (point for line in shown for point in line):
        left, top = map(float, point.split(","))
        assert 0 <= left <= 640
        assert 0 <= top <= 360


@pytest.mark.parametrize(("objective", "epoch"), [("bce", 1), ("macro_f1", 2)])
def test_a_note_tells_of_the_epoch_that_the_objective_chose(objective: str, epoch: int) -> None:
    reports = [
        EpochReport(1, 3, train_loss=0.5, val_loss=0.2, macro_f1=0.6, mean_ap=0.7, lr=0.1, seconds=2.0, micro_batch=64),
        EpochReport(2, 3, train_loss=0.4, val_loss=0.3, macro_f1=0.8, mean_ap=0.7, lr=0.1, seconds=2.4, micro_batch=64),
    ]
    text = note(reports, objective, ended="Pruned")  # type: ignore[arg-type]
    assert text.startswith(f"Pruned after 2 of 3 epochs in 4 s.\n\n**Best epoch {epoch}** on validation: loss 0.")


def test_a_figure_leaves_the_rows_that_the_dashboards_own_function_would_even_after_a_larger_one(
    tmp_path: Path, storage_url: str
) -> None:
    with open_study(str(declare(tmp_path)), storage_url, create=True) as study:
        for points in (2000, 5000, 1, 900):
            figure = go.Figure(go.Scatter(y=[f"point {number}" for number in range(points)]))
            hang(study, "ours", figure.to_json())
            save_plotly_graph_object(study.optuna, figure, graph_object_id="theirs")
            attributes = study.optuna._storage.get_study_system_attrs(study.optuna._study_id)
            ours, theirs = (
                {key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)}
                for prefix in ("dashboard:plot_data:ours:", "dashboard:plot_data:theirs:")
            )
            assert ours == theirs
            assert len(ours) > 10
