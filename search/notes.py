"""What optuna-dashboard shows of a trial as it finishes: a note, its loss curves as a picture; and of a study, figures.

Not here: the dashboard's server (dashboard.py); figures of a model (figures.py).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from optuna.trial import Trial

from mlc_core import EpochReport, Objective, best_epoch
from search.artifacts import attach
from search.study import Study
from search.trials import together

CURVES: Final = "curves.svg"
_PIECE: Final = 2045  # characters of a figure in one attribute, as optuna_dashboard cuts it
_WIDTH, _HEIGHT, _LEFT, _LOW = 640, 360, 64, 44  # pixels of the picture, and of its margins
_LINES: Final = {  # Okabe & Ito's colours; dashes tell them apart in print
    "training": ("#0072B2", "", "train_loss"),
    "validation": ("#D55E00", 'stroke-dasharray="7 4"', "val_loss"),
}


def picture(root: Path, study: Study, trial: Trial, reports: Sequence[EpochReport]) -> None:
    """Give a running trial, about to end, its curves.

    Raises
    ------
    OSError
        The artifact folder cannot be written.
    """
    if not reports:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / CURVES
        file.write_text(curves({name: [getattr(one, key) for one in reports] for name, (*_, key) in _LINES.items()}))
        attach(root, study, trial._trial_id, file)


def leave(study: Study, trial: Trial, reports: Sequence[EpochReport], *, ended: str) -> None:
    """Give a trial its note; `ended` says in a sentence how it did."""
    if reports:
        _save(trial, note(reports, study.declaration.objective, ended=ended))


def _save(trial: Trial, text: str) -> None:
    """Write what optuna_dashboard.save_note writes; to import that costs a worker seconds."""
    storage, study_id = trial.study._storage, trial.study._study_id
    storage.set_study_system_attr(study_id, f"dashboard:{trial._trial_id}:note_ver", 1)
    storage.set_study_system_attr(study_id, f"dashboard:{trial._trial_id}:note_str:0", text)


def hang(study: Study, name: str, figure: str) -> None:
    """Show a figure on the study's page, in place of an earlier one of this name.

    It writes what optuna_dashboard.save_plotly_graph_object writes, without reading every trial's note for it.

    Parameters
    ----------
    figure : str
        Plotly's JSON.
    """
    study_id, prefix = study.optuna._study_id, f"dashboard:plot_data:{name}:"
    before = study.storage.count_study_system_attrs(study_id, prefix)
    pieces = [figure[start : start + _PIECE] for start in range(0, len(figure), _PIECE)]
    pieces += [""] * (before - len(pieces))
    with together(study.storage):
        for place, piece in enumerate(pieces):
            study.storage.set_study_system_attr(study_id, f"{prefix}{place}", piece)


def note(reports: Sequence[EpochReport], objective: Objective, *, ended: str) -> str:
    """Write a trial's note, in Markdown; short, because a study reads all of its notes at once."""
    best = best_epoch(reports, objective)
    figures = (
        f"loss {best.val_loss:.4g}, macro F1 {best.macro_f1:.4g}, mAP {best.mean_ap:.4g}, training loss "
        f"{best.train_loss:.4g}"
    )
    seconds = sum(report.seconds for report in reports)
    return (
        f"{ended} after {len(reports)} of {best.epochs} epochs in {seconds:.0f} s.\n\n"
        f"**Best epoch {best.epoch}** on validation: {figures}.\n\nLoss by epoch: see `{CURVES}` among the artifacts."
    )


def curves(losses: Mapping[str, Sequence[float]]) -> str:
    """Draw losses over epochs, counted from 1, on a logarithmic scale, as SVG, which a browser shows as a picture."""
    logs = {
        name: [(epoch, _log(loss)) for epoch, loss in enumerate(line, start=1) if math.isfinite(loss) and loss > 0]
        for name, line in losses.items()
    }
    known = [log for line in logs.values() for _, log in line]
    low, high = min(known, default=-1.0) - 0.02, max(known, default=0.0) + 0.02
    epochs = max(map(len, losses.values()))

    def x(epoch: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - 20) * ((epoch - 1) / (epochs - 1) if epochs > 1 else 0.5)

    def y(log: float) -> float:
        return 30 + (_HEIGHT - 30 - _LOW) * (high - log) / (high - low)

    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>']
    for log in (low + (high - low) * step / 4 for step in range(5)):
        parts.append(f'<path d="M{_LEFT} {y(log):.1f}H{_WIDTH - 20}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 8, y(log) + 4, f"{10**log:.3g}", anchor="end"))
    ticks = range(1, epochs + 1, math.ceil(epochs / 12))
    parts += [_text(x(epoch), _HEIGHT - _LOW + 18, str(epoch)) for epoch in ticks]
    parts.append(_text((_WIDTH + _LEFT) / 2, _HEIGHT - 8, "epoch"))
    for place, (name, line) in enumerate(logs.items()):
        colour, dash, _ = _LINES[name]
        points = [(x(epoch), y(log)) for epoch, log in line]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" {dash}/>')
        parts += [f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}"/>' for left, top in points]
        at = _LEFT + 10 + 170 * place
        parts.append(f'<path d="M{at} 16h34" stroke="{colour}" stroke-width="2.5" {dash}/>')
        parts.append(_text(at + 42, 20, f"{name} loss", anchor="start"))
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="#1a1a1a"'
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>\n'


def _log(loss: float) -> float:
    return max(-12.0, min(12.0, math.log10(loss)))  # farther than any loss that is worth a look


def _text(x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
