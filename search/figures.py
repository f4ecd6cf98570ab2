"""Figures of a chosen model and of the search that led to it, each one function; and their files.

No colour alone carries meaning: lines also differ in dash or marker, bars in pattern, and cells hold their number.
Not here: where the numbers come from (mlc_core, views.py); the page they stand on (report_page.py).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import optuna
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mlc_core import MissingExtra, MlcError, Objective, Predictions, Scores, Split, Value
from mlc_core.evaluation import multilabel_confusion, reliability
from search.page import label, picture, text
from search.views import TrialRow, leaderboard

Format = Literal["html", "png", "svg", "pdf"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

SHOWN: Final = 100  # classes of a bar chart or matrix, kinds of error, parameters; more cannot be read
LINES: Final = 20  # curves in one figure
PANELS: Final = 60  # small figures in one
COUNTED: Final = 25  # rows of a matrix up to which each cell holds its count
LEAST: Final = 10  # complete trials from which on importances are more than noise
WIDTH: Final = 1000  # pixels of a saved figure
LETTERS: Final = 40  # of a name

_STEPS: Final = np.linspace(0, 1, 101)  # thresholds; levels of recall and of false positive rate
_POINTS: Final = 400  # of a curve; more cannot be seen
_INK: Final = "#1a1a1a"
_GRID: Final = "#e3e3e3"
_PATTERN: Final = {"fillmode": "overlay", "fgcolor": "#fff", "size": 6, "solidity": 0.3}
# Okabe & Ito 2008, told apart by all eyes; without the yellow, which white paper swallows, and black, which means.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash")  # five to six colours: no pair comes back before 30
_MEASURES: Final = (("precision", "#0072B2", "dash"), ("recall", "#D55E00", "dot"), ("F1", _INK, "solid"))
_VALUES: Final[dict[Objective, str]] = {
    "bce": "validation loss (BCE), nats",
    "macro_f1": "macro F1 on validation",
    "map": "mean average precision on validation",
}
_AXIS: Final = {
    "automargin": True,
    "gridcolor": _GRID,
    "linecolor": "#888",
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#888",
    "zeroline": False,
    "title": {"font": {"size": 13}},
}
_TEMPLATE: Final = go.layout.Template(
    layout={
        "font": {"family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 13, "color": _INK},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "colorway": _COLOURS,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": "#fff", "font": {"color": _INK}},
        "hovermode": "closest",
        "legend": {"title": {"font": {"size": 13}}, "tracegroupgap": 0},
        "margin": {"l": 10, "r": 10, "b": 10},
        "title": {"x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 20, "l": 10}, "font": {"size": 16}},
    }
)


class NoBrowser(MlcError):
    """Pictures are drawn by a Chromium, and none is there or starts."""


def training_curves(train_loss: Sequence[float], val_loss: Sequence[float], *, best: int) -> go.Figure:
    """Losses by epoch.

    Parameters
    ----------
    train_loss, val_loss : sequence of float
        One value an epoch, nats.
    best : int
        The epoch (counted from 1) whose weights were kept.
    """
    figure = go.Figure()
    for name, losses, colour, dash, symbol in (
        ("training, under dropout and augmentation", train_loss, _COLOURS[0], "dash", "square-open"),
        ("validation", val_loss, _COLOURS[1], "solid", "circle"),
    ):
        figure.add_scatter(
            x=list(range(1, len(losses) + 1)),
            y=list(losses),
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 7},
            hovertemplate="epoch %{x}: %{y:.4g}, %{fullData.name}<extra></extra>",
        )
    figure.add_scatter(
        x=[best],
        y=[val_loss[best - 1]],
        name=f"best epoch: {best}, {val_loss[best - 1]:.4g}",
        mode="markers",
        marker={"symbol": "star", "size": 17, "color": _INK},
        hoverinfo="name",
    )
    figure.add_vline(x=best, line={"color": _INK, "dash": "dot", "width": 1})
    figure.update_xaxes(title="epoch", dtick=max(1, -(-len(val_loss) // 20)))
    figure.update_yaxes(title="loss, nats", **_log([*train_loss, *val_loss]))
    return _finished(figure, "Loss by epoch", height=370)


def precision_recall_bars(scores: Scores) -> go.Figure:
    """Precision and recall of each class with their 95 % intervals."""
    shown = _common(scores)
    classes = [scores.classes[at] for at in shown]
    figure = go.Figure()
    for name, colour, pattern, values, intervals in (
        ("precision", _COLOURS[0], "", [one.precision for one in classes], [one.precision_interval for one in classes]),
        ("recall", _COLOURS[4], "/", [one.recall for one in classes], [one.recall_interval for one in classes]),
    ):
        whiskers = {
            "array": [max(one.high - value, 0) for one, value in zip(intervals, values, strict=True)],
            "arrayminus": [max(value - one.low, 0) for one, value in zip(intervals, values, strict=True)],
        }
        around = [f"{one.low:.3f} to {one.high:.3f}" for one in intervals]
        figure.add_bar(
            x=values,
            y=list(range(len(classes))),
            orientation="h",
            name=name,
            marker={"color": colour, "pattern": {**_PATTERN, "shape": pattern}},
            error_x={**whiskers, "color": _INK, "thickness": 1.2, "width": 3},
            customdata=[(_name(one.name), told) for one, told in zip(classes, around, strict=True)],
            hovertemplate="%{customdata[0]}: %{fullData.name} %{x:.3f}, 95 % from %{customdata[1]}<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05)
    figure.update_xaxes(title="precision, recall", range=[0, 1.02], tickformat=".0%")
    figure.update_yaxes(**_named([f"{one.name} ({one.support:,})" for one in classes]), autorange="reversed")
    note = f"In brackets: images with the class, of {scores.images:,}. Whiskers: 95 % intervals, bootstrap over images."
    note += _cut(len(shown), len(scores.classes), "most common")
    return _finished(figure, "Precision and recall of each class", note, height=60 + 34 * len(shown))


def confusion(predictions: Predictions, scores: Scores) -> go.Figure:
    """Which class was predicted where another one should have been: MLCM, Heydarian, Doyle & Samavi 2022."""
    matrix = multilabel_confusion(_predicted(predictions, scores), predictions.targets)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shown = _common(scores)
    keep = np.ix_([*shown, len(scores.classes)], [*shown, len(scores.classes)])
    names = [*(scores.classes[at].name for at in shown), "none"]
    told = "true: %{y}<br>predicted: %{x}<br>%{customdata:,}, %{z:.1%} of the row"
    figure = _matrix(shares[keep], matrix[keep], names, names, told=told, bar="share of the row")
    figure.update_traces(zmax=1)
    figure.update_xaxes(title="predicted")
    figure.update_yaxes(title="true")
    note = (
        "After Heydarian, Doyle & Samavi 2022. A missed label counts at every wrong prediction of its image, so a row "
        "need not add up to the class's images. None: no label, nothing predicted. Colour: share of the row."
    )
    note += _cut(len(shown), len(scores.classes), "most common")
    return _finished(figure, "Multi-label confusion matrix (MLCM)", note, height=_matrix_height(len(names)))


def confusion_grid(scores: Scores) -> go.Figure:
    """One 2 x 2 confusion matrix a class."""
    shown = _common(scores)
    across = min(6, len(shown))
    down = -(-len(shown) // across)
    # All of them as blocks of one matrix: a hundred axes would take a browser seconds.
    shares = np.full((3 * down, 3 * across), np.nan)
    counts, names = np.full(shares.shape, "", object), np.full(shares.shape, "", object)
    figure = go.Figure()
    for place, at in enumerate(shown):
        row, column = 3 * (place // across), 3 * (place % across)
        block = np.s_[row : row + 2, column : column + 2]
        own = np.array(scores.classes[at].confusion).reshape(2, 2)  # rows true, columns predicted; no before yes
        shares[block] = own / np.maximum(own.sum(axis=1, keepdims=True), 1)
        counts[block] = [[f"{count:,}" for count in line] for line in own]
        names[block] = _name(scores.classes[at].name)
        title = _name(scores.classes[at].name, 18)
        figure.add_annotation(x=column + 0.5, y=row - 0.52, text=title, showarrow=False, yanchor="bottom")
    figure.add_heatmap(
        z=shares,
        text=counts,
        customdata=names,
        texttemplate="%{text}",
        hovertemplate="%{customdata}<br>true: %{y}, predicted: %{x}<br>%{text}, %{z:.1%} of the row<extra></extra>",
        hoverongaps=False,
        colorscale="Blues",
        zmin=0,
        zmax=1,
        colorbar=_bar("share of the row"),
        xgap=1,
        ygap=1,
    )
    figure.update_xaxes(title="predicted", **_yes_no(across), range=[-0.5, 3 * across - 1.5])
    figure.update_yaxes(title="true", **_yes_no(down), range=[3 * down - 1.5, -1.1])
    note = f"Counts of {scores.images:,} images at each class's own threshold. Colour: share of the row."
    note += _cut(len(shown), len(scores.classes), "most common")
    return _finished(figure, "Confusion matrix of each class", note, height=70 + 105 * down)


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
        {at: f"{_name(one.name, 24)}  {one.average_precision or 0:.3f}" for at, one in enumerate(scores.classes)},
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
        {at: f"{_name(one.name, 24)}  {one.roc_auc or 0:.3f}" for at, one in enumerate(scores.classes)},
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
    looks = zip(_COLOURS, _DASHES, ("circle", "square-open", "diamond-open"), ("", "/", "x"), strict=False)
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
            marker={"color": colour, "pattern": {**_PATTERN, "shape": pattern}},
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
    return _finished(figure, "Reliability of the probabilities", note, height=520)


def threshold_curves(predictions: Predictions, scores: Scores) -> go.Figure:
    """Precision, recall and F1 of each class over its threshold; the chosen one is marked."""
    order = sorted(range(len(scores.classes)), key=lambda at: scores.classes[at].f1)
    shown = sorted(order[:PANELS])
    figure, across, down = _panels([_name(scores.classes[at].name, 22) for at in shown], across=5, height=150)
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
            line={"color": _COLOURS[2], "width": 1.5},
            marker={"symbol": "diamond", "size": [0, 10, 0], "opacity": 1},
            hovertemplate=f"chosen threshold %{{x:.3f}}: F1 {one.f1:.3f}<extra></extra>",
            row=row,
            col=column,
        )
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1])
    figure.update_yaxes(range=[0, 1.05], tickvals=[0, 0.5, 1])
    figure.update_xaxes(title="threshold", row=down)
    figure.update_yaxes(title="score", col=1)
    note = "Precision is not drawn where nothing is predicted." + _cut(len(shown), len(order), "weakest (by F1)")
    return _finished(figure, "Scores of each class over its threshold", note, height=60 + 150 * down, above=24)


def error_cooccurrence(predictions: Predictions, scores: Scores) -> go.Figure:
    """In how many images one class is missed or falsely seen while another one is."""
    predicted, true = _predicted(predictions, scores), predictions.targets == 1
    errors = np.concatenate([true & ~predicted, predicted & ~true], axis=1)
    kinds = [f"{one.name} {kind}" for kind in ("missed", "false") for one in scores.classes]
    total = errors.sum(axis=0)
    made = np.flatnonzero(total)
    shown = np.sort(made[np.argsort(-total[made], kind="stable")][:SHOWN])
    title = "Errors that occur together"
    if not len(shown):
        return _nothing(title, f"None of {scores.images:,} images has a wrong label.")
    together = errors[:, shown].T.astype(np.int64) @ errors[:, shown].astype(np.int64)
    # The diagonal, all errors of a kind, would only take the colours away from the rest.
    others = np.where(np.eye(len(shown), dtype=bool), np.nan, together)
    rows = [f"{kinds[at]} ({total[at]:,})" for at in shown]
    told = "%{y}<br>and %{x}<br>in %{customdata:,} images"
    figure = _matrix(others, together, rows, [kinds[at] for at in shown], told=told, bar="images")
    note = f"Images in which both errors were made, of {scores.images:,}. In brackets: all errors of that kind."
    note += _cut(len(shown), len(made), "most frequent", "kinds of error")
    return _finished(figure, title, note, height=_matrix_height(len(shown)))


def worst_images(
    predictions: Predictions, scores: Scores, split: Split, *, names: Sequence[str] = (), limit: int = 24
) -> str:
    """Draw the images with wrong labels whose loss is the highest, as a fragment of HTML.

    Parameters
    ----------
    predictions : Predictions
        Of `split`, in its order.
    names : sequence of str
        Of the images, such as their files.
    """
    predicted, true = _predicted(predictions, scores), predictions.targets == 1
    losses = (np.logaddexp(0, predictions.logits) - predictions.logits * true).mean(axis=1)
    wrong = np.flatnonzero((predicted != true).any(axis=1))
    if not len(wrong):
        return f"<p>None of {len(predictions):,} images has a wrong label.</p>"
    cards = []
    for at in wrong[np.argsort(-losses[wrong], kind="stable")][:limit]:
        kinds = {
            "missed": true[at] & ~predicted[at],
            "false": ~true[at] & predicted[at],
            "right": true[at] & predicted[at],
        }
        told = {kind: ", ".join(_told(predictions, at, mask)) for kind, mask in kinds.items() if mask.any()}
        name = names[at] if names else f"image {at}"
        lines = [f"<span class=quiet>{text(name)}</span>", *(f"<b>{kind}</b> {words}" for kind, words in told.items())]
        drawn = picture(split.images[split.rows[at]], name)
        cards.append(f"<div style='width:165px;font-size:13px'>{drawn}<br>{'<br>'.join(lines)}</div>")
    head = (
        f"{len(wrong):,} of {len(predictions):,} images have a wrong label. Shown: the {len(cards)} of the highest loss"
    )
    return f"<p>{head}; in brackets the probability.</p><div class=pictures>{''.join(cards)}</div>"


def optimization_history(rows: Iterable[TrialRow]) -> go.Figure:
    """Value of each trial in the order of their numbers, and the best so far."""
    rows = list(rows)
    complete = [row for row in rows if row.state == "complete"]
    if not complete:
        return _nothing("History of the search", "No trial is complete yet.")
    figure = go.Figure()
    for name, some, colour, symbol in (
        ("complete", [row for row in complete if row.paper is None], _COLOURS[0], "circle"),
        ("documented, replayed", [row for row in complete if row.paper is not None], _COLOURS[1], "diamond"),
        ("pruned, at its last epoch", [row for row in rows if row.state == "pruned"], "#777", "x-thin-open"),
    ):
        figure.add_scatter(
            x=[row.number for row in some],
            y=[row.latest for row in some],
            name=name,
            showlegend=bool(some),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            customdata=[row.epoch for row in some],
            hovertemplate="trial %{x}: %{y:.4g}, %{fullData.name}, epoch %{customdata}<extra></extra>",
        )
    best = list(accumulate(complete, _better))
    figure.add_scatter(
        x=[row.number for row in complete],
        y=[row.value for row in best],
        name="best so far",
        mode="lines",
        line={"color": _INK, "shape": "hv", "width": 1.5},
        customdata=[row.number for row in best],
        hovertemplate="best up to trial %{x}: %{y:.4g}, of trial %{customdata}<extra></extra>",
    )
    figure.update_xaxes(title="trial", tickformat="d", nticks=20)
    figure.update_yaxes(title=_VALUES[complete[0].objective], **_value_axis(rows))
    return _finished(figure, "History of the search", height=370)


def _better(one: TrialRow, other: TrialRow) -> TrialRow:
    return min(one, other, key=lambda row: row.rank)


def importances(study: optuna.Study) -> go.Figure | None:
    """How much each parameter decides whether a trial is good: PED-ANOVA, Watanabe et al. 2023 (IJCAI), of Optuna.

    Returns
    -------
    Figure or None
        None where there are fewer than LEAST complete trials, or all have one value.
    """
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < LEAST or len({trial.value for trial in complete}) == 1:
        return None
    shares = dict(list(optuna.importance.get_param_importances(study).items())[:SHOWN])
    figure = go.Figure()
    figure.add_bar(
        x=list(shares.values()),
        y=list(range(len(shares))),
        orientation="h",
        marker_color=_COLOURS[0],
        text=[f"{share:.0%}" for share in shares.values()],
        textposition="outside",
        cliponaxis=False,
        customdata=[_name(key) for key in shares],
        hovertemplate="%{customdata}: %{x:.1%}<extra></extra>",
    )
    figure.update_xaxes(title="importance", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(**_named(list(shares)), autorange="reversed")
    note = f"How far the best of {len(complete)} complete trials keep to a part of each parameter's range (PED-ANOVA)."
    return _finished(figure, "Importance of the parameters", note, height=70 + 28 * len(shares))


def slices(rows: Iterable[TrialRow]) -> go.Figure:
    """Value of the complete trials over each parameter; the best is marked."""
    ranked = leaderboard(rows)
    keys = list(dict.fromkeys(key for row in ranked for key in row.params))[:PANELS]
    if not keys:
        return _nothing("Value over each parameter", "No trial is complete yet.")
    figure, across, down = _panels([_name(key) for key in keys], across=4, height=200)
    named = set()
    for place, key in enumerate(keys):
        row, column = place // across + 1, place % across + 1
        own = [one for one in ranked if key in one.params]
        axis, spelled = _parameter_axis([one.params[key] for one in own])
        figure.update_xaxes(**axis, row=row, col=column)
        for name, some, colour, symbol in (
            ("complete", [one for one in own[1:] if one.paper is None], _COLOURS[0], "circle-open"),
            ("documented, replayed", [one for one in own[1:] if one.paper is not None], _COLOURS[1], "diamond"),
            ("best with the parameter", own[:1], _INK, "star"),
        ):
            figure.add_scatter(
                x=[spelled(one.params[key]) for one in some],
                y=[one.value for one in some],
                name=name,
                legendgroup=name,
                showlegend=bool(some) and name not in named,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 14 if symbol == "star" else 8},
                customdata=[one.number for one in some],
                hovertemplate="trial %{customdata}: %{x}, %{y:.4g}, %{fullData.name}<extra></extra>",
                row=row,
                col=column,
            )
            named |= {name} if some else set()
    figure.update_yaxes(**_value_axis(ranked))
    figure.update_yaxes(title=_VALUES[ranked[0].objective].partition(" on ")[0], col=1)
    return _finished(figure, "Value over each parameter", height=60 + 200 * down, above=24)


def timeline(rows: Iterable[TrialRow]) -> go.Figure:
    """When each finished trial trained, on as many lines as trained at once."""
    ran = [(row.started.timestamp(), row.seconds, row) for row in rows if row.started and row.seconds is not None]
    if not ran:
        return _nothing("Trials over time", "No trial has finished yet.")
    ran.sort(key=lambda one: (one[0], one[2].number))
    ends: list[float] = []  # of the last trial on each line
    lanes = []
    for start, seconds, _ in ran:
        lane = next((lane for lane, end in enumerate(ends) if end <= start), len(ends))
        ends[lane : lane + 1] = [start + seconds]
        lanes.append(lane + 1)
    figure = go.Figure()
    for state, colour, pattern in (
        ("complete", _COLOURS[5], ""),
        ("pruned", _COLOURS[4], "/"),
        ("failed", "#999", "x"),
    ):
        some = [(lane, *one) for lane, one in zip(lanes, ran, strict=True) if one[2].state == state]
        values = ["-" if row.latest is None else f"{row.latest:.4g}" for *_, row in some]
        figure.add_bar(
            y=[lane for lane, *_ in some],
            base=[(start - ran[0][0]) / 60 for _, start, _, _ in some],
            x=[seconds / 60 for _, _, seconds, _ in some],
            orientation="h",
            width=0.75,
            name=state,
            showlegend=bool(some),
            marker={"color": colour, "line": {"color": _INK, "width": 1}, "pattern": {**_PATTERN, "shape": pattern}},
            text=[str(row.number) for *_, row in some],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": _INK},
            customdata=[(row.number, row.seconds, value) for (*_, row), value in zip(some, values, strict=True)],
            hovertemplate="trial %{customdata[0]}, %{fullData.name} after %{customdata[1]:.1f} s: %{customdata[2]}"
            "<extra></extra>",
        )
    figure.update_layout(barmode="overlay", uniformtext={"minsize": 9, "mode": "hide"})
    figure.update_xaxes(title="minutes since the first trial started", rangemode="tozero")
    figure.update_yaxes(title="at once", dtick=max(1, len(ends) // 20), autorange="reversed")
    note = "Time spent training. An interrupted trial is drawn from its last start, as long as all attempts together."
    return _finished(figure, "Trials over time", note, height=110 + 34 * min(len(ends), 30))


def save_figures(figures: Mapping[str, go.Figure], folder: Path, formats: Sequence[Format]) -> list[Path]:
    """Write each figure in each format, named by its key; all pictures are drawn by one browser.

    Parameters
    ----------
    figures : mapping of str to Figure
    folder : Path
        Made if it is not there. Files of "html" need no network, but the ``plotly.min.js`` beside them.

    Raises
    ------
    MissingExtra
        A picture is asked for, and kaleido is not installed.
    NoBrowser
        A picture is asked for, and no Chromium is there or it does not start.
    OSError
        The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(figure, folder / f"{name}.{kind}") for name, figure in figures.items() for kind in formats]
    pictures = [(figure, path) for figure, path in wanted if path.suffix != ".html"]
    if pictures:
        _draw(pictures)
    for figure, path in wanted:
        if path.suffix == ".html":
            config = {"displaylogo": False, "responsive": True, "typesetMath": False}
            figure.write_html(path, config, include_plotlyjs="directory", div_id=path.stem)
    return [path for _, path in wanted]


def _draw(pictures: Sequence[tuple[go.Figure, Path]]) -> None:
    try:
        import kaleido  # type: ignore[import-untyped]  # brings a browser's driver, and most commands need none
        from kaleido.errors import (  # type: ignore[import-untyped]
            BrowserClosedError,
            BrowserFailedError,
            ChromeNotFoundError,
        )
    except ImportError:
        raise MissingExtra("Drawing a figure as PNG, SVG or PDF", "figures") from None
    tasks = []
    for figure, path in pictures:
        size = {"width": WIDTH, "height": figure.layout.height, "scale": 2 if path.suffix == ".png" else 1}
        tasks.append({"fig": figure, "path": path, "opts": size})
    hint = "name one in BROWSER_PATH; html needs none."
    try:
        # Without mathjax the page asks for nothing outside this machine.
        kaleido.write_fig_from_object_sync(tasks, cancel_on_error=True, kopts={"mathjax": False})
    except ChromeNotFoundError:
        told = "A Chromium draws PNG, SVG and PDF, and none was found"
        raise NoBrowser(f"{told}. Install chromium or Google Chrome, or {hint}") from None
    except (BrowserFailedError, BrowserClosedError) as error:
        told = f"The Chromium that draws PNG, SVG and PDF did not start or went away ({type(error).__name__})"
        raise NoBrowser(f"{told}. See whether it starts by itself, or {hint}") from None


def _finished(figure: go.Figure, title: str, note: str = "", *, height: int, above: int = 4) -> go.Figure:
    """Set what all figures share.

    Parameters
    ----------
    height : int
        Pixels, without the title, the note and the legend.
    above : int
        Pixels between them and the axes.
    """
    lines = textwrap.wrap(note, 130, break_long_words=False)
    words = "".join(f"<br><span style='font-size:13px;color:#555'>{line}</span>" for line in lines)
    legend_at = 38 + 17 * len(lines)
    across = len(figure.data) > 1 and figure.layout.legend.title.text is None
    top = legend_at + (24 if across else 0) + above
    figure.update_layout(template=_TEMPLATE, height=height + top, margin_t=top, title_text=title + words)
    if across:
        place = {"yref": "container", "y": 1 - legend_at / (height + top), "yanchor": "top", "x": 0}
        figure.update_layout(legend={"orientation": "h", "traceorder": "normal", **place})
    return figure


def _nothing(title: str, words: str) -> go.Figure:
    figure = go.Figure()
    figure.add_annotation(text=words, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return _finished(figure, title, height=120)


def _name(words: str, letters: int = LETTERS) -> str:
    """Make text of a name, at most so long; what is no Unicode, as in file names of old, is spelled out."""
    clean = words.encode("utf-8", "backslashreplace").decode()
    return label(clean if len(clean) <= letters else f"{clean[: letters - 1]}…")


def _named(names: Sequence[str]) -> dict[str, Any]:
    """Name the positions of an axis; plotly would read classes that are called 1 and 2 as numbers."""
    return {"tickvals": list(range(len(names))), "ticktext": [_name(name) for name in names]}


def _cut(shown: int, there: int, which: str, what: str = "classes") -> str:
    return f" Shown: the {shown} {which} of {there:,} {what}." if shown < there else ""


def _common(scores: Scores) -> list[int]:
    """Return the most common classes that one figure can show, in their own order."""
    order = sorted(range(len(scores.classes)), key=lambda at: -scores.classes[at].support)
    return sorted(order[:SHOWN])


def _predicted(predictions: Predictions, scores: Scores) -> NDArray[np.bool_]:
    thresholds = np.array([one.threshold for one in scores.classes])
    return np.asarray(predictions.probabilities >= thresholds)


def _told(predictions: Predictions, at: int, mask: NDArray[np.bool_]) -> list[str]:
    return [
        f"{text(predictions.classes[number])} ({predictions.probabilities[at, number]:.2f})"
        for number in np.flatnonzero(mask)
    ]


def _matrix(
    shares: NDArray[Any], counts: NDArray[Any], rows: Sequence[str], columns: Sequence[str], *, told: str, bar: str
) -> go.Figure:
    few = len(rows) <= COUNTED
    figure = go.Figure()
    figure.add_heatmap(
        z=shares,
        text=np.where(np.isnan(shares) | (counts == 0), "", counts.astype(str)) if few else None,
        texttemplate="%{text}" if few else None,
        customdata=counts,
        hovertemplate=f"{told}<extra></extra>",
        hoverongaps=False,
        colorscale="Blues",
        zmin=0,
        colorbar=_bar(bar),
        xgap=1,
        ygap=1,
    )
    short = max(map(len, columns)) <= 6 and few
    letters = {"size": min(13, max(7, 700 // len(columns)))}
    figure.update_xaxes(**_named(columns), tickangle=0 if short else -90, tickfont=letters, showgrid=False)
    figure.update_yaxes(**_named(rows), autorange="reversed", showgrid=False)
    return figure


def _matrix_height(rows: int) -> int:
    return 130 + (30 if rows <= COUNTED else 16) * rows


def _bar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "right", "font": {"size": 13}},
        "thickness": 14,
        "outlinewidth": 0,
        "nticks": 6,
    }


def _yes_no(blocks: int) -> dict[str, Any]:
    places = [3 * block + offset for block in range(blocks) for offset in (0, 1)]
    return {"tickvals": places, "ticktext": ["no", "yes"] * blocks, "showgrid": False, "showline": False, "ticks": ""}


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
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
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
        line = {"color": _INK, "width": 3.5}
        hover = f"mean: {told}<extra></extra>"
        name = f"<b>{mean[1]}</b>"
        figure.add_scatter(x=_STEPS, y=mean[0], mode="lines", line=line, name=name, legendrank=1, hovertemplate=hover)
    return figure


def _curve_finish(
    figure: go.Figure, title: str, drawn: int, left_out: Sequence[str], what: str, without: str
) -> go.Figure:
    figure.update_xaxes(range=[-0.01, 1.01])
    figure.update_yaxes(range=[-0.01, 1.03])
    note = "A circle marks the chosen threshold." + _cut(min(drawn, LINES), drawn, f"lowest (by {what})")
    if left_out:
        some = ", ".join(_name(name) for name in left_out[:8])
        note += f" Left out, for there are no {without}: {some}{' and more' if len(left_out) > 8 else ''}."
    return _finished(figure, title, note, height=490)


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


def _panels(titles: Sequence[str], *, across: int, height: int) -> tuple[go.Figure, int, int]:
    """Make small figures of one height in pixels; also returns their number across and down."""
    across = min(across, len(titles))
    down = -(-len(titles) // across)
    gap = min(48 / (height * down), 1 / max(down - 1, 1))
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=list(titles),
        shared_yaxes=True,
        horizontal_spacing=0.025,
        vertical_spacing=gap,
    )
    figure.update_annotations(font_size=13)
    return figure, across, down


def _log(values: Iterable[float]) -> dict[str, Any]:
    """Make an axis logarithmic if all values allow it, with ticks that are plain numbers."""
    known = [value for value in values if math.isfinite(value)]
    if not known or min(known) <= 0:
        return {}
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if max(known) <= 50 * min(known) else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:.3g}" for tick in ticks]}


def _value_axis(rows: Sequence[TrialRow]) -> dict[str, Any]:
    if rows[0].objective != "bce":
        return {}
    return _log(row.latest for row in rows if row.latest is not None and row.state in ("complete", "pruned"))


def _parameter_axis(values: Sequence[Value]) -> tuple[dict[str, Any], Callable[[Value], float | str]]:
    """Make the axis of a parameter, and how its values are given to it."""
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    few = len(set(values)) <= 6 and not any(isinstance(value, float) for value in values)
    if len(numbers) < len(values) or few:
        order = sorted(set(values), key=lambda value: (isinstance(value, str), value))
        return {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [_name(str(value)) for value in order],
        }, lambda v: _name(str(v))
    return _log(numbers) if min(numbers) > 0 and max(numbers) > 30 * min(numbers) else {}, float
