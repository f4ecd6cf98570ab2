"""Which figures a model and a study get, by name; drawn in figures.py."""

from __future__ import annotations

import plotly.graph_objects as go

from search import figures
from search.chosen import Chosen
from search.study import Study
from search.views import TrialRow


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
