"""Figures of a chosen model: its training, its scores by class, where it errs; each one function.

Not here: curves over a threshold (curves.py); figures of a search (study_figures.py); where the numbers come from
(mlc_core); the page they stand on (report_page.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from mlc_core import Predictions, Scores, Split, multilabel_confusion
from search.figure_style import (
    COLOURS,
    INK,
    PATTERN,
    SHOWN,
    cut_note,
    finished,
    log_axis,
    named_ticks,
    nothing,
    short_name,
)
from search.page import picture, text

COUNTED: Final = 25  # rows of a matrix up to which each cell holds its count


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
        ("training, under dropout and augmentation", train_loss, COLOURS[0], "dash", "square-open"),
        ("validation", val_loss, COLOURS[1], "solid", "circle"),
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
        marker={"symbol": "star", "size": 17, "color": INK},
        hoverinfo="name",
    )
    figure.add_vline(x=best, line={"color": INK, "dash": "dot", "width": 1})
    figure.update_xaxes(title="epoch", dtick=max(1, -(-len(val_loss) // 20)))
    figure.update_yaxes(title="loss, nats", **log_axis([*train_loss, *val_loss]))
    return finished(figure, "Loss by epoch", height=370)


def precision_recall_bars(scores: Scores) -> go.Figure:
    """Precision and recall of each class with their 95 % intervals."""
    shown = _common(scores)
    classes = [scores.classes[at] for at in shown]
    figure = go.Figure()
    for name, colour, pattern, values, intervals in (
        ("precision", COLOURS[0], "", [one.precision for one in classes], [one.precision_interval for one in classes]),
        ("recall", COLOURS[4], "/", [one.recall for one in classes], [one.recall_interval for one in classes]),
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
            marker={"color": colour, "pattern": {**PATTERN, "shape": pattern}},
            error_x={**whiskers, "color": INK, "thickness": 1.2, "width": 3},
            customdata=[(short_name(one.name), told) for one, told in zip(classes, around, strict=True)],
            hovertemplate="%{customdata[0]}: %{fullData.name} %{x:.3f}, 95 % from %{customdata[1]}<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05)
    figure.update_xaxes(title="precision, recall", range=[0, 1.02], tickformat=".0%")
    figure.update_yaxes(**named_ticks([f"{one.name} ({one.support:,})" for one in classes]), autorange="reversed")
    note = f"In brackets: images with the class, of {scores.images:,}. Whiskers: 95 % intervals, bootstrap over images."
    note += cut_note(len(shown), len(scores.classes), "most common")
    return finished(figure, "Precision and recall of each class", note, height=60 + 34 * len(shown))


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
    note += cut_note(len(shown), len(scores.classes), "most common")
    return finished(figure, "Multi-label confusion matrix (MLCM)", note, height=_matrix_height(len(names)))


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
        names[block] = short_name(scores.classes[at].name)
        title = short_name(scores.classes[at].name, 18)
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
    note += cut_note(len(shown), len(scores.classes), "most common")
    return finished(figure, "Confusion matrix of each class", note, height=70 + 105 * down)


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
        return nothing(title, f"None of {scores.images:,} images has a wrong label.")
    together = errors[:, shown].T.astype(np.int64) @ errors[:, shown].astype(np.int64)
    # The diagonal, all errors of a kind, would only take the colours away from the rest.
    others = np.where(np.eye(len(shown), dtype=bool), np.nan, together)
    rows = [f"{kinds[at]} ({total[at]:,})" for at in shown]
    told = "%{y}<br>and %{x}<br>in %{customdata:,} images"
    figure = _matrix(others, together, rows, [kinds[at] for at in shown], told=told, bar="images")
    note = f"Images in which both errors were made, of {scores.images:,}. In brackets: all errors of that kind."
    note += cut_note(len(shown), len(made), "most frequent", "kinds of error")
    return finished(figure, title, note, height=_matrix_height(len(shown)))


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
    figure.update_xaxes(**named_ticks(columns), tickangle=0 if short else -90, tickfont=letters, showgrid=False)
    figure.update_yaxes(**named_ticks(rows), autorange="reversed", showgrid=False)
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
