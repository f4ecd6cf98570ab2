"""Which figures a model and a study get, and the dashboard while a search goes on.

Not here: how they are drawn (figures.py, curves.py, study_figures.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import plotly.graph_objects as go
from optuna.trial import TrialState

from mlc_core import Dataset, Member, predict_split, read_member, score
from search.artifacts import weights_path
from search.chosen import Chosen
from search.curves import pr_curves, reliability_diagram, roc_curves, threshold_curves
from search.figures import (
    confusion,
    confusion_grid,
    error_cooccurrence,
    precision_recall_bars,
    training_curves,
    worst_images,
)
from search.notes import hang
from search.page import write_html
from search.pareto import best_first
from search.study import Study
from search.views import TrialRow, trial_row

HALF: Final = 0.5  # the threshold while nothing is tuned


def model_figures(chosen: Chosen) -> dict[str, go.Figure]:
    """Draw a model on the test split; the key is a file's name."""
    scores = chosen.scores
    return {
        "training": _training(chosen.candidates[0].row, chosen.members[0]),
        "precision-recall-by-class": precision_recall_bars(scores),
        "confusion": confusion(chosen.test, scores),
        "confusion-by-class": confusion_grid(scores),
        "precision-recall-curves": pr_curves(chosen.test, scores),
        "roc-curves": roc_curves(chosen.test, scores),
        "reliability": reliability_diagram({"as trained": chosen.plain_test, "calibrated on validation": chosen.test}),
        "thresholds": threshold_curves(chosen.test, scores),
        "errors-together": error_cooccurrence(chosen.test, scores),
    }


def write_worst(path: Path, chosen: Chosen, data: Dataset) -> None:
    """Write a page with the test images that the model is most wrong about."""
    pictures = worst_images(chosen.test, chosen.scores, data.test)
    write_html(path, title="Most wrongly classified", body=["<h1>Most wrongly classified</h1>", pictures])


def show_best(study: Study, root: Path, data: Dataset, number: int) -> None:
    """Hang figures of a trial that has just finished into the dashboard's page of the study, if it is the best one.

    They are of the validation split, at threshold 0.5: the test split is not looked at while a search goes on.
    """
    trials = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = next(iter(best_first(trials, study.declaration)[0]), None)
    if best is None or best.number != number or (weights := weights_path(root, best)) is None:
        return
    member = read_member(weights)
    (told,) = predict_split([member], data.val)
    scores = score(told, [HALF] * len(told.classes))
    drawn = {
        "training": _training(trial_row(study, study.storage.get_trial(best._trial_id)), member),
        "classes": precision_recall_bars(scores),
        "confusion": confusion(told, scores),
    }
    for name, figure in drawn.items():
        figure.update_layout(title_text=f"Best so far, trial {number}, on validation: {figure.layout.title.text}")
        hang(study, name, figure.to_json())


def _training(row: TrialRow, member: Member) -> go.Figure:
    return training_curves(row.metrics["train_loss"], row.metrics["val_loss"], best=int(member.facts["epoch"]))
