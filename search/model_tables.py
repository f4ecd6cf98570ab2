"""A chosen model's scores as rich tables.

Not here: a study's trials (drawing.py); figures (figures.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from mlc_core import Average, Interval, Scores
from search.chosen import Chosen, Way
from search.drawing import plain_table, settings
from search.paper import paper_result

LISTED = 100  # classes; more cannot be read


def summary(chosen: Chosen, milliseconds: float) -> Table:
    """Say what the model is and why it was chosen."""
    table = plain_table(chosen.name[0].upper() + chosen.name[1:], header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("chosen", Text(chosen.why))
    for one, share in zip(chosen.candidates, chosen.shares, strict=True):
        share_of = f" {share:.0%}" if len(chosen.shares) > 1 else ""
        table.add_row(f"model{share_of}", Text(f"{one.name}: {settings(one.row.params)}"))
    if len(chosen.shares) > 1:
        table.add_row("averaged", chosen.average)
    table.add_row("thresholds for", str(chosen.thresholds.goal))
    table.add_row("an image takes", f"{milliseconds:.2f} ms on this machine, in batches")
    return table


def score_table(scores: Scores) -> Table:
    """Everything about the test split in a few lines."""
    table = plain_table(f"Test split, {scores.images} images")
    for heading in ("", "precision", "recall", "F1"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in ("macro", "micro", "weighted", "samples"):
        average: Average = getattr(scores, name)
        known = scores.intervals
        cells = (
            (average.precision, known.get(f"{name}_precision")),
            (average.recall, known.get(f"{name}_recall")),
            (average.f1, known.get(f"{name}_f1")),
        )
        table.add_row(name, *(_percent(value, interval) for value, interval in cells))
    lines = (
        ("accuracy, element-wise", _percent(scores.accuracy, scores.intervals["accuracy"])),
        ("subset accuracy", _percent(scores.subset_accuracy, scores.intervals["subset_accuracy"])),
        ("mAP", _percent(scores.mean_ap, scores.intervals["mean_ap"])),
        ("ROC-AUC, macro", _percent(scores.roc_auc)),
        ("coverage error", f"{scores.coverage_error:.3f}"),
        ("ranking loss", f"{scores.ranking_loss:.4f}"),
        ("expected calibration error", _percent(scores.calibration_error)),
        ("loss (BCE), calibrated", f"{scores.loss:.4f}"),
    )
    for name, value in lines:
        table.add_row(name, value)
    return table


def class_table(scores: Scores) -> Table:
    """One line a class, with 95 % bootstrap intervals."""
    table = plain_table("By class, with 95 % intervals (bootstrap over images)")
    for heading in ("class", "support", "threshold", "precision", "recall", "F1", "AP", "ROC-AUC"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for one in scores.classes[:LISTED]:
        table.add_row(
            Text(one.name),
            str(one.support),
            f"{one.threshold:.3f}",
            _percent(one.precision, one.precision_interval),
            _percent(one.recall, one.recall_interval),
            _percent(one.f1, one.f1_interval),
            _percent(one.average_precision),
            _percent(one.roc_auc),
        )
    if len(scores.classes) > LISTED:
        table.add_row(f"{len(scores.classes) - LISTED} more", "", "", "see --json")
    return table


def way_table(ways: Mapping[Way, Scores]) -> Table:
    """Score the test split by how thresholds were found, all of them on validation."""
    table = plain_table("Thresholds found on validation, scores on test")
    for heading in ("thresholds", "macro F1", "macro precision", "macro recall", "accuracy"):
        table.add_column(heading, justify="left" if heading == "thresholds" else "right")
    said = {
        "0.5": "0.5, uncalibrated",
        "global": "one for all classes",
        "per class": "each class's best, unguarded",
        "tuned": "class-wise, guarded",
    }
    for way, scores in ways.items():
        table.add_row(
            said[way],
            _percent(scores.macro.f1, scores.intervals["macro_f1"]),
            _percent(scores.macro.precision, scores.intervals["macro_precision"]),
            _percent(scores.macro.recall, scores.intervals["macro_recall"]),
            _percent(scores.accuracy, scores.intervals["accuracy"]),
        )
    return table


def gain_table(best: Chosen, ensemble: Chosen, milliseconds: tuple[float, float]) -> Table:
    """Set what an ensemble gains on test beside what it costs."""
    table = plain_table("The best single model and the ensemble, on test")
    for heading in ("", "best single", "ensemble"):
        table.add_column(heading, justify="right" if heading else "left")
    pair = best.scores, ensemble.scores
    lines = {
        "macro F1": [_percent(one.macro.f1, one.intervals["macro_f1"]) for one in pair],
        "mAP": [_percent(one.mean_ap, one.intervals["mean_ap"]) for one in pair],
        "accuracy, element-wise": [_percent(one.accuracy, one.intervals["accuracy"]) for one in pair],
        "loss (BCE), calibrated": [f"{one.loss:.4f}" for one in pair],
        "models": [str(len(one.members)) for one in (best, ensemble)],
        "milliseconds an image": [f"{one:.2f}" for one in milliseconds],
    }
    for name, cells in lines.items():
        table.add_row(name, *cells)
    return table


def documented_table(scores: Scores) -> Table:
    """Set the document's figures beside ours; the data differ."""
    paper = paper_result()
    table = plain_table("Beside the document's final model, on other data: not a comparison of methods")
    for heading in ("", "documented", "here"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, documented, here in (
        ("accuracy, element-wise", paper.accuracy, scores.accuracy),
        ("macro precision", paper.macro_precision, scores.macro.precision),
        ("macro recall", paper.macro_recall, scores.macro.recall),
        ("macro F1", paper.macro_f1, scores.macro.f1),
    ):
        table.add_row(name, _percent(documented), _percent(here))
    ours = {one.name: one for one in scores.classes}
    if set(paper.classes) <= set(ours):
        for at, name in enumerate(paper.classes):
            theirs = (paper.precision[at], paper.recall[at], paper.f1[at])
            own = (ours[name].precision, ours[name].recall, ours[name].f1)
            table.add_row(
                f"class {name}: precision, recall, F1",
                " ".join(f"{100 * value:6.2f}" for value in theirs),
                " ".join(f"{100 * value:6.2f}" for value in own),
            )
    return table


def _percent(value: float | None, interval: Interval | None = None) -> str:
    if value is None:
        return "n/a"
    around = "" if interval is None else f" ({100 * interval.low:.1f}-{100 * interval.high:.1f})"
    return f"{100 * value:.2f} %{around}"
