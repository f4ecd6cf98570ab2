"""Figures of a chosen model and of the search that led to it, each one function; and their files.

No colour alone carries meaning: lines also differ in dash or marker, bars in pattern, and cells hold their number.
Not here: where the numbers come from (mlc_core, views.py); the page they stand on (report_page.py).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import optuna
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mlc_core import MissingExtra, MlcError, Objective, Predictions, Scores, Split, Value, cost
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
        "margin": {"l": 10, "r": 10, "b": 10},
        "title": {"x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 10, "l": 10}, "font": {"size": 16}},
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
    epochs = list(range(1, len(val_loss) + 1))
    figure = go.Figure()
    for name, losses, colour, dash, symbol in (
        ("training, under dropout and augmentation", train_loss, _COLOURS[0], "dash", "square-open"),
        ("validation", val_loss, _COLOURS[1], "solid", "circle"),
    ):
        figure.add_scatter(
            x=epochs, y=list(losses), name=name, mode="lines+markers", line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 7}, hovertemplate=f"epoch %{{x}}: {name} loss %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[best], y=[val_loss[best - 1]], name=f"best epoch: {best}, {val_loss[best - 1]:.4g}", mode="markers",
        marker={"symbol": "star", "size": 17, "color": _INK},
        hovertemplate="best epoch %{x}: validation loss %{y:.4g}<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=best, line={"color": _INK, "dash": "dot", "width": 1})
    figure.update_xaxes(title="epoch", **_whole(len(epochs)))
    figure.update_yaxes(title="loss, nats", **_log([*train_loss, *val_loss]))
    return _finished(figure, "Loss by epoch", height=400, legend=True)


def precision_recall_bars(scores: Scores) -> go.Figure:
    """Precision and recall of each class with their 95 % intervals."""
    shown = _common(scores)
    classes = [scores.classes[at] for at in shown]
    figure = go.Figure()
    for name, values, intervals, colour, pattern in (
        ("precision", [one.precision for one in classes], [one.precision_interval for one in classes], "#0072B2", ""),
        ("recall", [one.recall for one in classes], [one.recall_interval for one in classes], "#E69F00", "/"),
    ):
        around = [f"{interval.low:.3f} to {interval.high:.3f}" for interval in intervals]
        figure.add_bar(
            x=values, y=list(range(len(classes))), name=name, orientation="h", marker_color=colour,
            marker_pattern={"shape": pattern, "fgcolor": "#fff", "size": 6, "solidity": 0.35},
            error_x={
                "array": [max(interval.high - value, 0) for value, interval in zip(values, intervals, strict=True)],
                "arrayminus": [max(value - interval.low, 0) for value, interval in zip(values, intervals, strict=True)],
                "color": _INK, "thickness": 1.2, "width": 3,
            },
            customdata=[(_name(one.name), told) for one, told in zip(classes, around, strict=True)],
            hovertemplate=f"%{{customdata[0]}}: {name} %{{x:.3f}} (95 %: %{{customdata[1]}})<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05)
    figure.update_xaxes(title="precision, recall", range=[0, 1.02], tickformat=".0%")
    figure.update_yaxes(**_named([f"{one.name} ({one.support:,})" for one in classes]), autorange="reversed")
    note = f"In brackets: images with the class, of {scores.images:,}. Whiskers: 95 % intervals, bootstrap over images."
    return _finished(
        figure,
        "Precision and recall of each class",
        note + _cut(len(shown), len(scores.classes), "most common"),
        height=120 + 34 * len(shown),
        legend=True,
    )


def confusion(predictions: Predictions, scores: Scores) -> go.Figure:
    """Which class was predicted where another one should have been: MLCM, Heydarian, Doyle & Samavi 2022."""
    matrix = multilabel_confusion(_predicted(predictions, scores), predictions.targets)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shown = _common(scores)
    keep = np.ix_([*shown, len(scores.classes)], [*shown, len(scores.classes)])
    names = [scores.classes[at].name for at in shown]
    figure = _matrix(
        shares[keep],
        matrix[keep],
        rows=[*names, "no true label"],
        columns=[*names, "no predicted label"],
        told="true: %{customdata[0]}<br>predicted: %{customdata[1]}<br>%{customdata[2]:,}, %{z:.1%} of the row",
    )
    figure.update_xaxes(title="predicted")
    figure.update_yaxes(title="true")
    note = (
        "MLCM after Heydarian, Doyle & Samavi 2022. A missed label is counted at every wrong prediction of its image, "
        "so that a row need not add up to the class's images. Colour: share of the row; the numbers are counts."
    )
    return _finished(
        figure,
        "Confusion matrix of the labels (multi-label, MLCM)",
        note + _cut(len(shown), len(scores.classes), "most common"),
        height=_matrix_height(len(shown) + 1),
    )


def confusion_grid(scores: Scores) -> go.Figure:
    """One 2 x 2 confusion matrix a class."""
    shown = _common(scores)
    across = min(6, len(shown))
    down = -(-len(shown) // across)
    # All of them as blocks of one matrix: a hundred axes would take a browser seconds.
    shares = np.full((3 * down, 3 * across), np.nan)
    told = np.full((3 * down, 3 * across, 2), "", object)
    figure = go.Figure()
    for place, at in enumerate(shown):
        row, column = 3 * (place // across), 3 * (place % across)
        one = scores.classes[at]
        block = np.array(one.confusion).reshape(
            2, 2
        )  # true negatives, false positives; false negatives, true positives
        shares[row : row + 2, column : column + 2] = block / np.maximum(block.sum(axis=1, keepdims=True), 1)
        told[row : row + 2, column : column + 2, 0] = [[f"{count:,}" for count in counts] for counts in block]
        told[row : row + 2, column : column + 2, 1] = _name(one.name)
        figure.add_annotation(x=column + 0.5, y=row - 0.55, text=_name(one.name, 18), showarrow=False, yanchor="bottom")
    figure.add_heatmap(
        z=shares, customdata=told, texttemplate="%{customdata[0]}", colorscale="Blues", zmin=0, zmax=1,
        xgap=1, ygap=1, colorbar=_bar("share of the row"), hoverongaps=False,
        hovertemplate="%{customdata[1]}<br>true: %{y}, predicted: %{x}<br>%{customdata[0]}, %{z:.1%}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="predicted", **_yes_no(across), range=[-0.5, 3 * across - 1.5])
    figure.update_yaxes(title="true", **_yes_no(down), range=[3 * down - 1.5, -1.4])
    figure.update_layout(plot_bgcolor="#fff")
    note = f"Counts of {scores.images:,} images at each class's threshold. Colour: share of the row."
    return _finished(
        figure,
        "Confusion matrix of each class",
        note + _cut(len(shown), len(scores.classes), "most common"),
        height=110 + 105 * down,
    )


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
    return _curve_finish(figure, "Precision over recall", len(curves), left_out, "average precision", "images")


def roc_curves(predictions: Predictions, scores: Scores) -> go.Figure:
    """True over false positive rate of each class, and their mean at each rate; the chosen threshold is marked."""
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
    return _curve_finish(figure, "ROC: true over false positives", len(curves), left_out, "area", "images, or all")


def reliability_diagram(told: Mapping[str, Predictions]) -> go.Figure:
    """Share of positives over predicted probability, and how many image-label pairs that is.

    Parameters
    ----------
    told : mapping
        Such as "calibrated" and "as trained" to what was predicted.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.06)
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name="perfect",
        line={"color": "#888", "dash": "dot", "width": 1},
        row=1,
        col=1,
    )
    for number, (name, predictions) in enumerate(told.items()):
        bins = reliability(predictions.probabilities, predictions.targets)
        full = bins.pairs > 0
        colour, pattern = _COLOURS[number % 6], ("", "/", "x")[number % 3]
        figure.add_scatter(
            x=bins.told[full], y=bins.seen[full], customdata=bins.pairs[full],
            name=f"{name}: expected calibration error {bins.error:.2%}", mode="lines+markers",
            line={"color": colour, "dash": _DASHES[number % 5]},
            marker={"symbol": ("circle", "square-open", "diamond-open")[number % 3], "size": 9},
            hovertemplate=f"{name}: told %{{x:.3f}}, seen %{{y:.3f}}, %{{customdata:,}} pairs<extra></extra>",
            row=1, col=1,
        )  # fmt: skip
        figure.add_bar(
            x=(np.arange(len(full)) + 0.5) / len(full), y=bins.pairs, marker_color=colour, showlegend=False,
            marker_pattern={"shape": pattern, "fgcolor": "#fff", "solidity": 0.35}, row=2, col=1,
            hovertemplate=f"{name}: %{{y:,}} pairs around %{{x:.2f}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(bargap=0.1)
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_xaxes(title="predicted probability", row=2, col=1)
    figure.update_yaxes(title="share of positives", range=[-0.02, 1.05], row=1, col=1)
    figure.update_yaxes(title="pairs (log)", type="log", dtick=1, row=2, col=1)
    note = "Image-label pairs of all classes in bins of equal width; on the dotted line, 70 % told is 70 % seen."
    return _finished(figure, "Reliability of the probabilities", note, height=560, legend=True)


def threshold_curves(predictions: Predictions, scores: Scores) -> go.Figure:
    """Precision, recall and F1 of each class over its threshold; the chosen one is marked."""
    order = sorted(range(len(scores.classes)), key=lambda at: scores.classes[at].f1)
    shown = sorted(order[:PANELS])
    figure, across, down = _panels([_name(scores.classes[at].name, 22) for at in shown], across=5, height=150)
    for place, at in enumerate(shown):
        one, cell = scores.classes[at], {"row": place // across + 1, "col": place % across + 1}
        lines = _over_thresholds(predictions.probabilities[:, at], predictions.targets[:, at] == 1)
        for (name, colour, dash), line in zip(_MEASURES, lines, strict=True):
            figure.add_scatter(
                x=_STEPS, y=line, name=name, legendgroup=name, showlegend=place == 0, mode="lines",
                line={"color": colour, "dash": dash, "width": 1.6}, **cell,
                hovertemplate=f"threshold %{{x:.2f}}: {name} %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
        figure.add_scatter(
            x=[one.threshold], y=[one.f1], name="chosen threshold", legendgroup="chosen", showlegend=place == 0,
            mode="markers", marker={"symbol": "diamond", "size": 10, "color": _COLOURS[2]}, **cell,
            hovertemplate="chosen threshold %{x:.3f}: F1 %{y:.3f}<extra></extra>",
        )  # fmt: skip
        figure.add_vline(x=one.threshold, line={"color": _COLOURS[2], "width": 1.5}, **cell)
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1])
    figure.update_yaxes(range=[0, 1.05], tickvals=[0, 0.5, 1])
    figure.update_xaxes(title="threshold", row=down)
    figure.update_yaxes(title="score", col=1)
    note = "Precision is not drawn where nothing is predicted." + _cut(len(shown), len(order), "weakest (by F1)")
    return _finished(figure, "Scores of each class over its threshold", note, height=110 + 150 * down, legend=True)


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
        return _finished(_nothing(f"None of {scores.images:,} images has a wrong label."), title, height=200)
    together = errors[:, shown].T.astype(np.int64) @ errors[:, shown].astype(np.int64)
    # The diagonal, all errors of a kind, would only take the colours away from the rest.
    others = np.where(np.eye(len(shown), dtype=bool), np.nan, together)
    names = [kinds[at] for at in shown]
    figure = _matrix(
        others, together, rows=[f"{name} ({total[at]:,})" for name, at in zip(names, shown, strict=True)], columns=names,
        told="%{customdata[0]}<br>and %{customdata[1]}<br>in %{customdata[2]:,} images", most=None,
    )  # fmt: skip
    note = f"Images in which both errors were made, of {scores.images:,}; in brackets all errors of that kind."
    return _finished(
        figure, title, note + _cut(len(shown), len(made), "most frequent", "kinds of error"),
        height=_matrix_height(len(shown)),
    )  # fmt: skip


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
        kinds = (
            ("missed", true[at] & ~predicted[at]),
            ("false", ~true[at] & predicted[at]),
            ("right", true[at] & predicted[at]),
        )
        lines = "".join(
            f"<div><b>{kind}</b> {', '.join(_told(predictions, at, mask))}</div>" for kind, mask in kinds if mask.any()
        )
        name = names[at] if names else f"image {at}"
        drawn = picture(split.images[split.rows[at]], name)
        cards.append(f"<div style='width:160px;font-size:13px'>{drawn}<div class=quiet>{text(name)}</div>{lines}</div>")
    head = f"{len(wrong):,} of {len(predictions):,} images have a wrong label; shown: those of the highest loss, {len(cards)}."
    return f"<p>{head} In brackets the probability.</p><div class=pictures>{''.join(cards)}</div>"


def optimization_history(rows: Iterable[TrialRow]) -> go.Figure:
    """Value of each trial in the order of their numbers, and the best so far."""
    rows = list(rows)
    complete = [row for row in rows if row.state == "complete" and row.value is not None]
    if not complete:
        return _finished(_nothing("No trial is complete yet."), "History of the search", height=200)
    figure = go.Figure()
    for name, some, colour, symbol in (
        ("complete", [row for row in complete if row.paper is None], _COLOURS[0], "circle"),
        ("documented, replayed", [row for row in complete if row.paper is not None], _COLOURS[1], "diamond"),
        ("pruned, at its last epoch", [row for row in rows if row.state == "pruned"], "#777", "x-thin-open"),
    ):
        if some:
            figure.add_scatter(
                x=[row.number for row in some], y=[row.latest for row in some], name=name, mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.5 if "x" in symbol else 0}},
                customdata=[row.epoch for row in some],
                hovertemplate=f"trial %{{x}}: %{{y:.4g}}, {name}, epoch %{{customdata}}<extra></extra>",
            )  # fmt: skip
    best = [min(complete[: at + 1], key=lambda row: row.rank) for at in range(len(complete))]
    figure.add_scatter(
        x=[row.number for row in complete], y=[row.value for row in best], name="best so far", mode="lines",
        line={"color": _INK, "shape": "hv", "width": 1.5}, customdata=[row.number for row in best],
        hovertemplate="best up to trial %{x}: %{y:.4g}, of trial %{customdata}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="trial", **_whole(max(row.number for row in rows)))
    figure.update_yaxes(title=_VALUES[complete[0].objective], **_value_axis(rows))
    return _finished(figure, "History of the search", height=400, legend=True)


def importances(study: optuna.Study) -> go.Figure | None:
    """How much each parameter decides the value: PED-ANOVA, Watanabe, Bansal & Hutter 2023 (IJCAI), as Optuna has it.

    Returns
    -------
    Figure or None
        None where there are too few complete trials, or all of one value.
    """
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < LEAST or len({trial.value for trial in complete}) == 1:
        return None
    shares = dict(list(optuna.importance.get_param_importances(study).items())[:SHOWN])
    figure = go.Figure(
        go.Bar(
            x=list(shares.values()), y=list(range(len(shares))), orientation="h", marker_color=_COLOURS[0],
            text=[f"{share:.0%}" for share in shares.values()], textposition="outside", cliponaxis=False,
            customdata=[_name(key) for key in shares], hovertemplate="%{customdata}: %{x:.1%}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="importance", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(**_named(list(shares)), autorange="reversed")
    note = (
        f"How far the best of {len(complete)} complete trials differ from all in each parameter (PED-ANOVA). It tells "
        "what was worth searching, not which value is best."
    )
    return _finished(figure, "Importance of the parameters", note, height=130 + 28 * len(shares))


def slices(rows: Iterable[TrialRow]) -> go.Figure:
    """Value of the complete trials over each parameter; the best is marked."""
    ranked = leaderboard(rows)
    keys = list(dict.fromkeys(key for row in ranked for key in row.params))[:PANELS]
    if not keys:
        return _finished(_nothing("No trial is complete yet."), "Value over each parameter", height=200)
    figure, across, down = _panels([_name(key) for key in keys], across=4, height=210)
    for place, key in enumerate(keys):
        cell = {"row": place // across + 1, "col": place % across + 1}
        own = [row for row in ranked if key in row.params]
        axis, spelled = _parameter_axis([row.params[key] for row in own])
        figure.update_xaxes(**axis, **cell)
        for name, some, colour, symbol in (
            (
                "complete",
                [row for row in own if row.paper is None and row is not ranked[0]],
                _COLOURS[0],
                "circle-open",
            ),
            (
                "documented, replayed",
                [row for row in own if row.paper is not None and row is not ranked[0]],
                _COLOURS[1],
                "diamond",
            ),
            ("best", [row for row in own if row is ranked[0]], _INK, "star"),
        ):
            figure.add_scatter(
                x=[spelled(row.params[key]) for row in some], y=[row.value for row in some], name=name, mode="markers",
                legendgroup=name, showlegend=place == 0 and bool(some), customdata=[row.number for row in some],
                marker={"color": colour, "symbol": symbol, "size": 15 if symbol == "star" else 8}, **cell,
                hovertemplate=f"trial %{{customdata}}: %{{x}}, %{{y:.4g}}, {name}<extra></extra>",
            )  # fmt: skip
    figure.update_yaxes(**_value_axis(ranked))
    figure.update_yaxes(title=_VALUES[ranked[0].objective].partition(" (")[0], col=1)
    return _finished(figure, "Value over each parameter", height=110 + 210 * down, legend=True)


def timeline(rows: Iterable[TrialRow]) -> go.Figure:
    """When each finished trial trained, on as many lines as trained at once."""
    ran = sorted(
        ((row.started.timestamp(), row) for row in rows if row.started is not None and row.seconds is not None),
        key=lambda pair: (pair[0], pair[1].number),
    )
    if not ran:
        return _finished(_nothing("No trial has finished yet."), "Trials over time", height=200)
    first, ends, placed = ran[0][0], [], []
    for start, row in ran:
        lane = next((lane for lane, end in enumerate(ends) if end <= start), len(ends))
        ends[lane : lane + 1] = [start + (row.seconds or 0)]
        placed.append((lane + 1, (start - first) / 60, row))
    figure = go.Figure()
    for state, colour, pattern in (("complete", _COLOURS[0], ""), ("pruned", _COLOURS[4], "/"), ("failed", _INK, "x")):
        some = [(lane, minutes, row) for lane, minutes, row in placed if row.state == state]
        if some:
            figure.add_bar(
                y=[lane for lane, _, _ in some], base=[minutes for _, minutes, _ in some], name=state,
                x=[(row.seconds or 0) / 60 for _, _, row in some], orientation="h", width=0.7,
                marker={"color": colour, "line": {"color": "#fff", "width": 1}},
                marker_pattern={"shape": pattern, "fgcolor": "#fff", "solidity": 0.3, "size": 6},
                text=[str(row.number) for _, _, row in some], textposition="inside", insidetextanchor="middle",
                customdata=[(row.number, row.seconds, f"{row.latest:.4g}" if row.latest is not None else "-") for _, _, row in some],
                hovertemplate=f"trial %{{customdata[0]}}, {state}, %{{customdata[1]:.1f}} s: %{{customdata[2]}}<extra></extra>",
            )  # fmt: skip
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title="minutes since the first trial started", rangemode="tozero")
    figure.update_yaxes(title="at once", dtick=max(1, len(ends) // 20), autorange="reversed")
    note = "Time spent training; a trial that was interrupted begins with its last start and is as long as all of its attempts."
    return _finished(figure, "Trials over time", note, height=150 + 34 * min(len(ends), 30), legend=True)


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
        import kaleido
        from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
    except ImportError:
        raise MissingExtra("Drawing a figure as PNG, SVG or PDF", "figures") from None
    tasks = [
        {
            "fig": figure,
            "path": path,
            "opts": {"width": WIDTH, "height": figure.layout.height, "scale": 2 if path.suffix == ".png" else 1},
        }
        for figure, path in pictures
    ]
    try:
        # Without mathjax the page asks for nothing outside this machine.
        kaleido.write_fig_from_object_sync(tasks, cancel_on_error=True, kopts={"mathjax": False})
    except ChromeNotFoundError:
        hint = "Install chromium or Google Chrome, or name one in BROWSER_PATH; html needs none."
        raise NoBrowser(f"PNG, SVG and PDF are drawn by a Chromium, and none was found. {hint}") from None
    except (BrowserFailedError, BrowserClosedError) as error:
        hint = "Check that it starts by itself, or name another in BROWSER_PATH; html needs none."
        raise NoBrowser(
            f"The Chromium that draws PNG, SVG and PDF does not start ({type(error).__name__}). {hint}"
        ) from None


def _finished(figure: go.Figure, title: str, note: str = "", *, height: int, legend: bool = False) -> go.Figure:
    lines = textwrap.wrap(note, 125)
    top = 42 + 18 * len(lines) + (28 if legend else 4)
    subtitle = {"text": "<br>".join(lines), "font": {"size": 13, "color": "#555"}}
    figure.update_layout(
        template=_TEMPLATE, height=height + top, margin_t=top, title={"text": title, "subtitle": subtitle}
    )
    if legend:
        figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"})
    return figure


def _nothing(words: str) -> go.Figure:
    figure = go.Figure()
    figure.add_annotation(text=words, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


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
    shares: NDArray[Any],
    counts: NDArray[Any],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    told: str,
    most: float | None = 1,
) -> go.Figure:
    spelled = np.empty((*counts.shape, 3), object)
    spelled[..., 0], spelled[..., 1], spelled[..., 2] = (
        np.array([_name(row) for row in rows])[:, None],
        [_name(column) for column in columns],
        counts,
    )
    figure = go.Figure(
        go.Heatmap(
            z=shares, customdata=spelled, hovertemplate=f"{told}<extra></extra>", colorscale="Blues", zmin=0, zmax=most,
            texttemplate="%{customdata[2]}" if len(rows) <= COUNTED else None, xgap=1, ygap=1, hoverongaps=False,
            colorbar=_bar("share of the row" if most else "images"),
        )
    )  # fmt: skip
    figure.update_xaxes(**_named(columns), tickangle=-45 if len(columns) <= 40 else -90)
    figure.update_yaxes(**_named(rows), autorange="reversed")
    return figure


def _matrix_height(rows: int) -> int:
    return 130 + (30 if rows <= COUNTED else 16) * rows


def _bar(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "side": "right"}, "thickness": 14, "outlinewidth": 0}


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
        style = {"color": _COLOURS[number % 6], "dash": _DASHES[number % 5]}
        hover = {
            "hovertemplate": f"%{{fullData.name}}: {told}<extra></extra>",
            "name": names[at],
            "legendgroup": str(at),
        }
        figure.add_scatter(x=x, y=y, mode="lines", line={**style, "shape": shape, "width": 1.6}, **hover)
        figure.add_scatter(
            x=[marks[at][0]], y=[marks[at][1]], mode="markers", showlegend=False, **hover,
            marker={"color": style["color"], "symbol": "circle-open", "size": 10, "line": {"width": 2}},
        )  # fmt: skip
    if mean is not None:
        figure.add_scatter(
            x=_STEPS, y=mean[0], mode="lines", name=f"<b>{mean[1]}</b>", line={"color": _INK, "width": 3.5},
            hovertemplate=f"mean: {told}<extra></extra>",
        )  # fmt: skip
    return figure


def _curve_finish(
    figure: go.Figure, title: str, drawn: int, left_out: Sequence[str], what: str, without: str
) -> go.Figure:
    figure.update_xaxes(range=[-0.01, 1.01])
    figure.update_yaxes(range=[-0.01, 1.03])
    note = "A circle marks the chosen threshold." + _cut(min(drawn, LINES), drawn, f"lowest (by {what})")
    if left_out:
        some = ", ".join(_name(name) for name in left_out[:8])
        note += f" Left out, for there are no {without} with it: {some}{' and more' if len(left_out) > 8 else ''}."
    return _finished(figure, title, note, height=480)


def _thinned(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.unique(np.linspace(0, len(values) - 1, _POINTS).round().astype(int))]


def _over_thresholds(probabilities: NDArray[Any], positive: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
    """Precision (NaN where nothing is predicted), recall and F1 at each step."""
    marked = len(probabilities) - np.searchsorted(np.sort(probabilities), _STEPS)
    hits = positive.sum() - np.searchsorted(np.sort(probabilities[positive]), _STEPS)
    precision = np.where(marked > 0, hits / np.maximum(marked, 1), np.nan)
    return precision, hits / max(positive.sum(), 1), 2 * hits / np.maximum(marked + positive.sum(), 1)


def _panels(titles: Sequence[str], *, across: int, height: int) -> tuple[go.Figure, int, int]:
    """Make small figures of one size; their number across and down."""
    across = min(across, len(titles))
    down = -(-len(titles) // across)
    figure = make_subplots(
        rows=down, cols=across, subplot_titles=list(titles), shared_yaxes=True, horizontal_spacing=0.025,
        vertical_spacing=min(46 / (height * down), 1 / max(down - 1, 1)),
    )  # fmt: skip
    figure.update_annotations(font_size=13)
    return figure, across, down


def _whole(most: int) -> dict[str, Any]:
    return {"dtick": max(1, -(-most // 20))}


def _log(values: Iterable[float]) -> dict[str, Any]:
    """Make an axis logarithmic if all values allow it, with ticks that are plain numbers."""
    known = [value for value in values if math.isfinite(value)]
    if not known or min(known) <= 0:
        return {}
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
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
        return {"type": "category", "categoryarray": [_name(str(value)) for value in order]}, lambda v: _name(str(v))
    return _log(numbers) if min(numbers) > 0 and max(numbers) > 30 * min(numbers) else {}, float
