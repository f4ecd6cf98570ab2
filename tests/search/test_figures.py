"""Figures of a model show the numbers that they were given, by scikit-learn or by hand.

Figures of a search: test_study_figures.py; that a browser draws them all: test_report_page.py.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import plotly.graph_objects as go
import pytest
from sklearn import metrics

from mlc_core import Predictions, Scores, Split, score
from search.curves import LINES, pr_curves, reliability_diagram, roc_curves, threshold_curves
from search.figure_style import PANELS, SHOWN
from search.figures import (
    confusion,
    confusion_grid,
    error_cooccurrence,
    precision_recall_bars,
    training_curves,
    worst_images,
)
from search.study_figures import importance_bars, optimization_history, slices, timeline
from tests.search.test_data_page import CLASSES, HOSTILE_FILE, SCRIPT
from tests.search.test_study_figures import importances, named, searched

NAMES: Final = (*CLASSES, "%{x} $a_1$", "\udcff.png", "never")  # the last is carried by no image


@dataclass(frozen=True)
class Told:
    """Predictions of images of noise, with their scores."""

    predictions: Predictions
    scores: Scores
    split: Split


def told(names: Sequence[str] = NAMES, *, images: int = 300, empty: int = 1) -> Told:
    """Predict classes that become rarer; the last ones, as many as `empty`, are carried by no image."""
    rng = np.random.default_rng(0)
    shares = np.linspace(0.5, 0.1, len(names))
    shares[len(names) - empty :] = 0
    targets = (rng.random((images, len(names))) < shares).astype(np.uint8)
    logits = 1.5 * rng.standard_normal(targets.shape) + 3 * targets - 2
    predictions = Predictions(tuple(names), logits, targets)
    pixels = rng.integers(0, 255, (images, 3, 8, 8), dtype=np.uint8)
    order = rng.permutation(images)
    thresholds = np.linspace(0.3, 0.7, len(names)).tolist()
    return Told(predictions, score(predictions, thresholds, resamples=50), Split(pixels, targets, order))


@pytest.fixture(scope="module")
def noise() -> Told:
    return told()


def all_figures(noise: Told) -> dict[str, go.Figure]:
    """Draw each figure once."""
    predictions, scores = noise.predictions, noise.scores
    return {
        "training_curves": training_curves([0.6, 0.4, 0.3], [0.5, 0.3, 0.35], best=2),
        "precision_recall_bars": precision_recall_bars(scores),
        "confusion": confusion(predictions, scores),
        "confusion_grid": confusion_grid(scores),
        "pr_curves": pr_curves(predictions, scores),
        "roc_curves": roc_curves(predictions, scores),
        "reliability": reliability_diagram({"calibrated": predictions, "as trained": predictions}),
        "threshold_curves": threshold_curves(predictions, scores),
        "error_cooccurrence": error_cooccurrence(predictions, scores),
        "optimization_history": optimization_history(searched()),
        "importances": importance_bars(importances()),
        "slices": slices(searched()),
        "timeline": timeline(searched()),
        "nothing": timeline([]),
    }


def words(figure: go.Figure) -> str:
    """Return the title and the note below it as plain text."""
    return html.unescape(str(figure.layout.title.text).replace("<br>", " "))


def note(figure: go.Figure) -> str:
    """Return the note alone, with its lines joined."""
    lines = str(figure.layout.title.text).split("<br>")[1:]
    return html.unescape(" ".join(line.partition(">")[2].removesuffix("</span>") for line in lines))


def test_losses_are_drawn_by_epoch_and_the_best_is_marked() -> None:
    figure = training_curves([0.6, 0.4, 0.3], [0.5, 0.3, 0.35], best=2)
    train, val, best = figure.data
    assert (train.x, train.y) == ((1, 2, 3), (0.6, 0.4, 0.3))
    assert (val.x, val.y) == ((1, 2, 3), (0.5, 0.3, 0.35))
    assert (best.x, best.y, best.name) == ((2,), (0.3,), "best epoch: 2, 0.3")
    assert figure.layout.yaxis.type == "log"
    assert training_curves([0.0], [0.5], best=1).layout.yaxis.type is None  # a logarithm would leave it out


def test_lines_differ_in_more_than_their_colour(noise: Told) -> None:
    for name, figure in all_figures(noise).items():
        shapes = [trace for trace in figure.data if trace.type == "scatter" and trace.showlegend is not False]
        looks = {
            (
                trace.line.dash,
                trace.marker.symbol if "markers" in trace.mode else None,
                trace.line.width,
                trace.line.shape,
            )
            for trace in shapes
        }
        bars = [
            trace.marker.pattern.shape for trace in figure.data if trace.type == "bar" and trace.showlegend is not False
        ]
        if name not in ("pr_curves", "roc_curves"):  # there five dashes and six colours make the pairs
            assert len(looks) == len(shapes), name
        assert len(set(bars)) == len(bars), name


def test_bars_are_as_long_as_precision_and_recall_and_whiskers_end_where_intervals_do(noise: Told) -> None:
    figure = precision_recall_bars(noise.scores)
    for measure in ("precision", "recall"):
        (bars,) = named(figure, measure)
        values = np.array([getattr(one, measure) for one in noise.scores.classes])
        intervals = [getattr(one, f"{measure}_interval") for one in noise.scores.classes]
        assert list(bars.x) == values.tolist()
        inside = [interval.low <= value <= interval.high for interval, value in zip(intervals, values, strict=True)]
        assert sum(inside) >= len(inside) - 1
        np.testing.assert_allclose((values + bars.error_x.array)[inside], [one.high for one in intervals])
        np.testing.assert_allclose((values - bars.error_x.arrayminus)[inside], [one.low for one in intervals])
    assert figure.layout.yaxis.ticktext[0] == f"1 ({noise.predictions.targets[:, 0].sum()})"


def test_the_confusion_matrix_holds_what_a_few_images_give_by_hand() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], np.uint8)
    predicted = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 0, 0]])
    predictions = Predictions(("a", "b", "c"), np.where(predicted, 9.0, -9.0), targets)
    figure = confusion(predictions, score(predictions, [0.5] * 3, resamples=1))
    # Right twice; b missed for c, and missed for nothing; a seen where nothing was.
    counts = [[2, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    (heat,) = figure.data
    assert heat.customdata.tolist() == counts
    assert heat.z.tolist() == [[1, 0, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert heat.text.tolist() == [[str(count or "") for count in row] for row in counts]
    assert figure.layout.xaxis.ticktext == figure.layout.yaxis.ticktext == ("a", "b", "c", "none")
    assert words(figure).startswith("Multi-label confusion matrix (MLCM)")
    assert "Heydarian, Doyle & Samavi 2022" in note(figure)


def test_each_class_has_its_2_x_2_matrix_as_scikit_learn_counts_it(noise: Told) -> None:
    thresholds = [one.threshold for one in noise.scores.classes]
    predicted = noise.predictions.probabilities >= thresholds
    expected = metrics.multilabel_confusion_matrix(noise.predictions.targets, predicted)
    (heat,) = confusion_grid(noise.scores).data
    for at, matrix in enumerate(expected):
        row, column = 3 * (at // 6), 3 * (at % 6)
        block = np.s_[row : row + 2, column : column + 2]
        assert heat.text[block].tolist() == [[f"{count:,}" for count in line] for line in matrix]
        np.testing.assert_allclose(heat.z[block], matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))


def test_the_area_below_a_curve_is_what_its_legend_says(noise: Told) -> None:
    pr, roc = pr_curves(noise.predictions, noise.scores), roc_curves(noise.predictions, noise.scores)
    for at, one in enumerate(noise.scores.classes[:-1]):
        target, logit = noise.predictions.targets[:, at], noise.predictions.logits[:, at]
        line, mark = (trace for trace in pr.data if trace.legendgroup == str(at))
        area = float(np.sum(np.diff(line.x) * line.y[1:]))  # between two points as high as the second: shape "vh"
        expected = metrics.average_precision_score(target, logit)
        assert line.line.shape == "vh"
        assert area == pytest.approx(expected, abs=1e-9)
        assert line.name.endswith(f"  {expected:.3f}")
        assert (mark.x[0], mark.y[0]) == (one.recall, one.precision)
        line, mark = (trace for trace in roc.data if trace.legendgroup == str(at))
        expected = metrics.roc_auc_score(target, logit)
        assert float(np.trapezoid(line.y, line.x)) == pytest.approx(expected, abs=1e-9)
        assert line.name.endswith(f"  {expected:.3f}")
        matrix = metrics.confusion_matrix(target, noise.predictions.probabilities[:, at] >= one.threshold)
        assert (mark.x[0], mark.y[0]) == pytest.approx((matrix[0, 1] / matrix[0].sum(), matrix[1, 1] / matrix[1].sum()))
    for figure, mean in ((pr, noise.scores.mean_ap), (roc, noise.scores.roc_auc)):
        assert figure.data[-1].name == f"<b>mean  {mean:.3f}</b>"
        assert float(np.trapezoid(figure.data[-1].y, figure.data[-1].x)) == pytest.approx(mean, abs=0.01)


def test_a_class_without_images_has_no_curve_and_that_is_said(noise: Told) -> None:
    pr, roc = pr_curves(noise.predictions, noise.scores), roc_curves(noise.predictions, noise.scores)
    assert {trace.legendgroup for trace in pr.data} == {*map(str, range(len(NAMES) - 1)), None}
    assert note(pr) == "A circle marks the chosen threshold. Left out, for there are no images with it: never."
    assert (
        note(roc)
        == "A circle marks the chosen threshold. Left out, for there are no images with it, or none without: never."
    )
    nobody = told(("a", "b"), empty=2)
    assert pr_curves(nobody.predictions, nobody.scores).data == ()


def test_long_curves_are_thinned_without_a_change_that_one_could_see() -> None:
    many = told(("a", "b"), images=20000, empty=0)
    for figure in (pr_curves(many.predictions, many.scores), roc_curves(many.predictions, many.scores)):
        assert max(len(trace.x) for trace in figure.data) <= 400
    line = pr_curves(many.predictions, many.scores).data[0]
    area = float(np.sum(np.diff(line.x) * line.y[1:]))
    assert area == pytest.approx(many.scores.classes[0].average_precision, abs=2e-3)


def test_the_reliability_diagram_tells_the_error_and_every_pair(noise: Told) -> None:
    figure = reliability_diagram({"calibrated": noise.predictions})
    perfect, line, bars = figure.data
    assert perfect.x == perfect.y == (0, 1)
    assert sum(bars.y) == sum(line.customdata) == noise.predictions.targets.size
    error = float(np.sum(line.customdata * np.abs(line.x - line.y)) / np.sum(line.customdata))
    assert line.name == f"calibrated: expected calibration error {error:.2%}"
    assert error == pytest.approx(noise.scores.calibration_error)
    assert np.average(line.y, weights=line.customdata) == pytest.approx(noise.predictions.targets.mean())


def test_threshold_curves_agree_with_scikit_learn_and_mark_the_chosen_one(noise: Told) -> None:
    figure = threshold_curves(noise.predictions, noise.scores)
    at = 3
    target, told_ = noise.predictions.targets[:, at], noise.predictions.probabilities[:, at]
    lines = {name: named(figure, name)[at] for name in ("precision", "recall", "F1")}
    for step in (0, 20, 50, 83):
        predicted = told_ >= step / 100
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(target, predicted, average="binary")
        for name, expected in (("precision", precision), ("recall", recall), ("F1", f1)):
            assert lines[name].x[step] == pytest.approx(step / 100)
            assert lines[name].y[step] == pytest.approx(expected), (name, step)
    assert math.isnan(lines["precision"].y[100])  # nothing has the probability 1
    mark, chosen = named(figure, "chosen threshold")[at], noise.scores.classes[at]
    assert (mark.x[1], mark.y[1]) == (chosen.threshold, chosen.f1)


def test_errors_that_occur_together_are_counted_as_a_loop_counts_them(noise: Told) -> None:
    figure = error_cooccurrence(noise.predictions, noise.scores)
    thresholds = [one.threshold for one in noise.scores.classes]
    wrong: list[set[str]] = []
    for probabilities, targets in zip(noise.predictions.probabilities, noise.predictions.targets, strict=True):
        rows = zip(range(len(NAMES)), probabilities, targets, thresholds, strict=True)
        wrong.append(
            {f"{at} {'missed' if target else 'false'}" for at, p, target, t in rows if (p >= t) != bool(target)}
        )
    kinds = [f"{at} {kind}" for kind in ("missed", "false") for at in range(len(NAMES))]
    kinds = [kind for kind in kinds if any(kind in errors for errors in wrong)]
    (heat,) = figure.data
    expected = [[sum(row in errors and column in errors for errors in wrong) for column in kinds] for row in kinds]
    assert heat.customdata.tolist() == expected
    assert np.isnan(np.diag(heat.z)).all()
    assert np.nansum(heat.z) == np.sum(expected) - np.trace(expected)


def test_without_an_error_that_is_said() -> None:
    right = Predictions(("a",), np.array([[9.0], [-9.0]]), np.array([[1], [0]], np.uint8))
    scores = score(right, [0.5], resamples=1)
    split = Split(np.zeros((2, 3, 4, 4), np.uint8), right.targets)
    assert error_cooccurrence(right, scores).layout.annotations[0].text == "None of 2 images has a wrong label."
    assert worst_images(right, scores, split) == "<p>None of 2 images has a wrong label.</p>"


def test_the_worst_images_are_those_of_the_highest_loss_with_their_own_pixels(noise: Told) -> None:
    markup = worst_images(noise.predictions, noise.scores, noise.split, limit=5)
    thresholds = [one.threshold for one in noise.scores.classes]
    wrong = ((noise.predictions.probabilities >= thresholds) != (noise.predictions.targets == 1)).any(axis=1)
    losses = np.array(
        [
            metrics.log_loss(targets, probabilities, labels=[0, 1])
            for targets, probabilities in zip(noise.predictions.targets, noise.predictions.probabilities, strict=True)
        ]
    )
    expected = [at for at in np.argsort(-losses) if wrong[at]][:5]
    assert [int(part.split('"')[0]) for part in markup.split('alt="image ')[1:]] == expected
    alone = worst_images(
        noise.predictions.take(np.array(expected[:1])),
        noise.scores,
        Split(noise.split.images[noise.split.rows[expected[:1]]], noise.predictions.targets[expected[:1]]),
    )
    pixels = base64.b64decode(markup.split("base64,")[1].split('"')[0])
    assert pixels == base64.b64decode(alone.split("base64,")[1].split('"')[0])
    assert markup.startswith(f"<p>{wrong.sum()} of 300 images have a wrong label. Shown: the 5 of the highest loss;")


def test_the_worst_images_hold_no_markup_of_names(noise: Told) -> None:
    names = [HOSTILE_FILE] * len(noise.predictions)
    markup = worst_images(noise.predictions, noise.scores, noise.split, names=names, limit=300)
    assert SCRIPT not in markup
    assert html.escape(SCRIPT) in markup
    assert HOSTILE_FILE not in markup
    assert f"<span class=quiet>{html.escape(HOSTILE_FILE)}</span>" in markup


def test_more_classes_than_one_can_read_are_cut_and_that_is_said() -> None:
    many = told([f"class {at}" for at in range(SHOWN + 20)], images=200, empty=0)
    common = f"Shown: the {SHOWN} most common of {SHOWN + 20} classes."
    bars, matrix, grid = (
        precision_recall_bars(many.scores),
        confusion(many.predictions, many.scores),
        confusion_grid(many.scores),
    )
    for figure in (bars, matrix, grid):
        assert note(figure).endswith(common)
    assert len(bars.data[0].x) == SHOWN
    assert matrix.data[0].z.shape == (SHOWN + 1, SHOWN + 1)
    assert matrix.data[0].text is None
    assert len(grid.layout.annotations) == SHOWN
    curves = pr_curves(many.predictions, many.scores)
    assert len(curves.data) == 2 * LINES + 1
    assert note(curves).endswith(f"Shown: the {LINES} lowest (by average precision) of {SHOWN + 20} classes.")
    panels = threshold_curves(many.predictions, many.scores)
    assert len(named(panels, "F1")) == PANELS
    assert note(panels).endswith(f"Shown: the {PANELS} weakest (by F1) of {SHOWN + 20} classes.")
    kinds = error_cooccurrence(many.predictions, many.scores)
    assert kinds.data[0].z.shape == (SHOWN, SHOWN)
