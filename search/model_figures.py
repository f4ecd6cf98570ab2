"""Which figures a model and a study get, and the dashboard while a search goes on; drawn in figures.py."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import plotly.graph_objects as go
from optuna_dashboard import save_plotly_graph_object

from mlc_core import Dataset, cost, predict_split, read_member, score
from search import figures
from search.artifacts import weights_path
from search.chosen import Chosen
from search.storage import patiently
from search.study import Study
from search.views import TrialRow, leaderboard, trial_rows

HALF: Final = 0.5  # the threshold while nothing is tuned


def model_figures(chosen: Chosen) -> dict[str, go.Figure]:
    """Draw a model on the test split; the key is a file's name."""
    scores = chosen.scores()
    history = chosen.candidates[0].row
    losses = history.metrics.get("train_loss", ()), history.metrics.get("val_loss", ())
    drawn = {}
    if losses[0]:
        best = int(chosen.members[0].facts["epoch"])
        drawn["training"] = figures.training_curves(*losses, best=best)
    return drawn | {
        "precision-recall-by-class": figures.precision_recall_bars(scores),
        "confusion": figures.confusion(chosen.test, scores),
        "confusion-by-class": figures.confusion_grid(scores),
        "precision-recall-curves": figures.pr_curves(chosen.test, scores),
        "roc-curves": figures.roc_curves(chosen.test, scores),
        "reliability": figures.reliability_diagram(
            {"as trained": chosen.plain_test, "calibrated on validation": chosen.test}
        ),
        "thresholds": figures.threshold_curves(chosen.test, scores),
        "errors-together": figures.error_cooccurrence(chosen.test, scores),
    }


def study_figures(study: Study, rows: list[TrialRow]) -> dict[str, go.Figure]:
    """Draw a search; the key is a file's name."""
    important = figures.importances(study.optuna)
    return {
        "history": figures.optimization_history(rows),
        **({} if important is None else {"importances": important}),
        "slices": figures.slices(rows),
        "timeline": figures.timeline(rows),
    }


def show_best(study: Study, root: Path, data: Dataset, number: int) -> None:
    """Hang figures of a trial that has just finished into the dashboard's page of the study, if it is the best one.

    They are of the validation split, at threshold 0.5: the test split is not looked at while a search goes on.
    """
    leader = next(iter(leaderboard(trial_rows(study))), None)
    if leader is None or leader.number != number:
        return
    weights = weights_path(root, study.optuna.get_trials(deepcopy=False)[number])
    if weights is None:
        return
    (told,) = predict_split([read_member(weights)], data.val)
    scores = score(told, [HALF] * len(told.classes))
    drawn = {
        "training": figures.training_curves(
            leader.metrics["train_loss"], leader.metrics["val_loss"], best=_best_epoch(leader)
        ),
        "classes": figures.precision_recall_bars(scores),
        "confusion": figures.confusion(told, scores),
    }
    for name, figure in drawn.items():
        figure.update_layout(title_text=f"Best so far, trial {number}, on validation: {figure.layout.title.text}")
        save = partial(save_plotly_graph_object, study.optuna, figure, graph_object_id=name)
        patiently(study.storage, save)


def _best_epoch(row: TrialRow) -> int:
    return min(row.reports, key=lambda epoch: cost(row.reports[epoch], row.objective))
