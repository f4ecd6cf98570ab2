"""Figures of a chosen model over a threshold or a probability: precision, recall, ROC, reliability.

Not here: its other figures (figures.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mlc_core import Predictions, Scores, reliability
from search.figure_style import COLOURS, DASHES, INK, PANELS, PATTERN, cut_note, finished, panels, short_name

LINES: Final = 20  # curves in one figure

_STEPS: Final = np.linspace(0, 1, 101)  # thresholds; levels of recall and of false positive rate
_POINTS: Final = 400  # of a curve; more cannot be seen
_MEASURES: Final = (("precision", "#0072B2", "dash"), ("recall", "#D55E00", "dot"), ("F1", INK, "solid"))


def pr_curves(predictions: Predictions, scores: Scores) -> go.Figure:
    """Precision over recall of each class, and their mean at each recall; the chosen threshold is marked."""
    from sklearn.metrics import precision_recall_curve  # costs a second

    curves, left_out = {}, []
    for at, one in enumerate(scores.classes):
        if one.average_precision is None:
            left_out.append(one.name)
            continue
        # Recall ascending. At a recall between two points holds the precision of the higher: so AP is the area.
        precision, recall, _ = precision_recall_curve(predictions.targets[:, at], predictions.logits[:, at])
        curves[at] = recall[::-1], precision[::-1]
    at_step = [y[np.minimum(np.searchsorted(x, _STEPS), len(x) - 1)] for x, y in curves.values()]
    figure = _curves(
        curves,
        {at: f"{short_name(one.name, 24)}  {one.average_precision or 0:.3f}" for at, one in enumerate(scores.classes)},
        order=[one.average_precision or 0 for one in scores.classes],
        mean=(np.mean(at_step, axis=0), f"mean  {scores.mean_ap or 0:.3f}") if curves else None,
        marks={at: (scores.classes[at].recall, scores.classes[at].precision) for at in curves},
        told="recall %{x:.3f}, precision %{y:.3f}",
        shape="vh",
    )
    figure.update_xaxes(title="recall")
    figure.update_yaxes(title="precision")
    figure.update_layout(legend_title_text="average precision")
    return _curve_finish(figure, "Precision over recall", len(curves), left_out, "average precision", "images with it")


def roc_curves(predictions: Predictions, scores: Scores) -> go.Figure:
    """ROC of each class, and their mean at each false positive rate; the chosen threshold is marked."""
    from sklearn.metrics import roc_curve  # costs a second

    curves, left_out, marks = {}, [], {}
    for at, one in enumerate(scores.classes):
        if one.roc_auc is None:
            left_out.append(one.name)
            continue
        false, true, _ = roc_curve(predictions.targets[:, at], predictions.logits[:, at])
        curves[at] = false, true
        negatives, false_positives = one.confusion[0] + one.confusion[1], one.confusion[1]
        marks[at] = false_positives / negatives, one.recall
    at_step = [np.interp(_STEPS, x, y) for x, y in curves.values()]
    figure = _curves(
        curves,
        {at: f"{short_name(one.name, 24)}  {one.roc_auc or 0:.3f}" for at, one in enumerate(scores.classes)},
        order=[one.roc_auc or 0 for one in scores.classes],
        mean=(np.mean(at_step, axis=0), f"mean  {scores.roc_auc or 0:.3f}") if curves else None,
        marks=marks,
        told="false positive rate %{x:.3f}, true positive rate %{y:.3f}",
        shape="linear",
    )
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"color": "#888", "dash": "dot", "width": 1})
    figure.update_xaxes(title="false positive rate")
    figure.update_yaxes(title="true positive rate (recall)")
    figure.update_layout(legend_title_text="area under the curve")
    return _curve_finish(
        figure, "ROC: true over false positives", len(curves), left_out, "area", "images with it, or none without"
    )


def reliability_diagram(told: Mapping[str, Predictions]) -> go.Figure:
    """Share of positives over predicted probability, and how many image-label pairs that is.

    Parameters
    ----------
    told : mapping
        Such as "calibrated" and "as trained" to what was predicted; two or three.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.06)
    diagonal = {"color": "#888", "dash": "dot", "width": 1}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="perfect", line=diagonal, row=1, col=1)
    looks = zip(COLOURS, DASHES, ("circle", "square-open", "diamond-open"), ("", "/", "x"), strict=False)
    for (name, predictions), (colour, dash, symbol, pattern) in zip(told.items(), looks, strict=False):
        bins = reliability(predictions.probabilities, predictions.targets)
        full = bins.pairs > 0
        figure.add_scatter(
            x=bins.told[full],
            y=bins.seen[full],
            name=f"{name}: expected calibration error {bins.error:.2%}",
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 9},
            customdata=bins.pairs[full],
            hovertemplate=f"{name}: told %{{x:.3f}}, seen %{{y:.3f}}, %{{customdata:,}} pairs<extra></extra>",
            row=1,
            col=1,
        )
        figure.add_bar(
            x=(np.arange(len(full)) + 0.5) / len(full),
            y=bins.pairs,
            showlegend=False,
            marker={"color": colour, "pattern": {**PATTERN, "shape": pattern}},
            hovertemplate=f"{name}: %{{y:,}} pairs<extra></extra>",
            row=2,
            col=1,
        )
    figure.update_layout(bargap=0.1)
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_xaxes(title="predicted probability", row=2)
    figure.update_yaxes(title="share of positives", range=[-0.02, 1.05], row=1)
    figure.update_yaxes(title="pairs, log", type="log", dtick=1, tickformat=",d", row=2)
    note = (
        "Image-label pairs of all classes, in bins of equal width. Below: how many; where there are few, chance rules."
    )
    return finished(figure, "Reliability of the probabilities", note, height=520)


def threshold_curves(predictions: Predictions, scores: Scores) -> go.Figure:
    """Precision, recall and F1 of each class over its threshold; the chosen one is marked."""
    order = sorted(range(len(scores.classes)), key=lambda at: scores.classes[at].f1)
    shown = sorted(order[:PANELS])
    figure, across, down = panels([short_name(scores.classes[at].name, 22) for at in shown], across=5, height=150)
    for place, at in enumerate(shown):
        one, row, column = scores.classes[at], place // across + 1, place % across + 1
        lines = _over_thresholds(predictions.probabilities[:, at], predictions.targets[:, at] == 1)
        for (name, colour, dash), line in zip(_MEASURES, lines, strict=True):
            figure.add_scatter(
                x=_STEPS,
                y=line,
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                mode="lines",
                line={"color": colour, "dash": dash, "width": 1.6},
                hovertemplate="threshold %{x:.2f}: %{fullData.name} %{y:.3f}<extra></extra>",
                row=row,
                col=column,
            )
        figure.add_scatter(
            x=[one.threshold] * 3,
            y=[0, one.f1, 1.05],
            name="chosen threshold",
            legendgroup="chosen",
            showlegend=place == 0,
            mode="lines+markers",
            line={"color": COLOURS[2], "width": 1.5},
            marker={"symbol": "diamond", "size": [0, 10, 0], "opacity": 1},
            hovertemplate=f"chosen threshold %{{x:.3f}}: F1 {one.f1:.3f}<extra></extra>",
            row=row,
            col=column,
        )
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1])
    figure.update_yaxes(range=[0, 1.05], tickvals=[0, 0.5, 1])
    figure.update_xaxes(title="threshold", row=down)
    figure.update_yaxes(title="score", col=1)
    note = "Precision is not drawn where nothing is predicted." + cut_note(len(shown), len(order), "weakest (by F1)")
    return finished(figure, "Scores of each class over its threshold", note, height=60 + 150 * down, above=24)


def _curves(
    curves: Mapping[int, tuple[NDArray[Any], NDArray[Any]]],
    names: Mapping[int, str],
    *,
    order: Sequence[float],
    mean: tuple[NDArray[Any], str] | None,
    marks: Mapping[int, tuple[float, float]],
    told: str,
    shape: str,
) -> go.Figure:
    """Draw the curves of the lowest order, as many as can be told apart, each with the mark of its threshold."""
    figure = go.Figure()
    for number, at in enumerate(sorted(sorted(curves, key=lambda at: order[at])[:LINES])):
        x, y = (_thinned(values) for values in curves[at])
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        line = {"color": colour, "dash": dash, "shape": shape, "width": 1.6}
        mark = {"color": colour, "symbol": "circle-open", "size": 10, "line": {"width": 2}}
        hover = f"%{{fullData.name}}: {told}<extra></extra>"
        name, group = names[at], str(at)
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=name, legendgroup=group, hovertemplate=hover)
        mark_x, mark_y = marks[at]
        figure.add_scatter(
            x=[mark_x],
            y=[mark_y],
            mode="markers",
            marker=mark,
            name=name,
            legendgroup=group,
            showlegend=False,
            hovertemplate=hover,
        )
    if mean is not None:
        line = {"color": INK, "width": 3.5}
        hover = f"mean: {told}<extra></extra>"
        name = f"<b>{mean[1]}</b>"
        figure.add_scatter(x=_STEPS, y=mean[0], mode="lines", line=line, name=name, legendrank=1, hovertemplate=hover)
    return figure


def _curve_finish(
    figure: go.Figure, title: str, drawn: int, left_out: Sequence[str], what: str, without: str
) -> go.Figure:
    figure.update_xaxes(range=[-0.01, 1.01])
    figure.update_yaxes(range=[-0.01, 1.03])
    note = "A circle marks the chosen threshold." + cut_note(min(drawn, LINES), drawn, f"lowest (by {what})")
    if left_out:
        some = ", ".join(short_name(name) for name in left_out[:8])
        note += f" Left out, for there are no {without}: {some}{' and more' if len(left_out) > 8 else ''}."
    return finished(figure, title, note, height=490)


def _thinned(values: NDArray[Any]) -> NDArray[Any]:
    places: NDArray[np.int64] = np.unique(np.linspace(0, len(values) - 1, _POINTS).round().astype(int))
    return values.take(places)


def _over_thresholds(probabilities: NDArray[Any], positive: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
    """Precision (NaN where nothing is predicted), recall and F1 at each step."""
    marked = len(probabilities) - np.searchsorted(np.sort(probabilities), _STEPS)
    hits = positive.sum() - np.searchsorted(np.sort(probabilities[positive]), _STEPS)
    precision = np.where(marked > 0, hits / np.maximum(marked, 1), np.nan)
    positives = int(positive.sum())
    return precision, hits / max(positives, 1), 2 * hits / np.maximum(marked + positives, 1)
