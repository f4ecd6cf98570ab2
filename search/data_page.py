"""What was found in a data set, as one HTML file that needs no network: figures, sample pictures, what is wrong.

Not here: what is found (mlc_core); the same as text (drawing.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mlc_core import SPLITS, DataCheck, Loaded
from search.page import COLOURS, drawn, facts, label, picture, text, write_html

SAMPLES: Final = 8  # pictures a class
PICTURES: Final = 600  # of samples at most, or one of each class
SHOWN: Final = 100  # rows of a table, and classes of the heat map; more cannot be read
LETTERS: Final = 40  # of a name in a figure


def write_page(path: Path, check: DataCheck, loaded: Loaded) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
    check : DataCheck
        What was found in `loaded`.
    loaded : Loaded
        From where the pictures are taken.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    pictures = _Pictures(loaded)
    body = [
        f"<h1>{text(Path(check.root).name)}</h1><p class=quiet>{text(check.root)} ({text(check.format)})</p>",
        _facts(check),
        _findings(check),
        _figures(check),
        _alike(check, pictures),
        _problems(check),
        _samples(check, loaded, pictures),
    ]
    title = f"{Path(check.root).name}: data check"
    write_html(path, title=title, body=body, script=get_plotlyjs())


class _Pictures:
    """Small pictures by path, as data URIs."""

    def __init__(self, loaded: Loaded) -> None:
        self._images = loaded.store.images
        self._rows = {entry.path: row for row, entry in enumerate(loaded.listing.entries)}

    def show(self, paths: Iterable[str]) -> str:
        """Draw them side by side; the name is told when a pointer rests on one."""
        return f"<div class=pictures>{''.join(map(self._one, paths))}</div>"

    def _one(self, path: str) -> str:
        return picture(self._images[self._rows[path]], path)


def _facts(check: DataCheck) -> str:
    width, height = check.width, check.height
    told = [
        ("images", f"{sum(check.images.values()):,}"),
        ("classes", f"{len(check.classes):,}"),
        *((name, f"{check.images[name]:,}") for name in SPLITS),
        ("labels an image", f"{check.mean_labels:.2f}"),
        ("median size, pixels", f"{width[1]:,} × {height[1]:,}"),
        ("sizes, pixels", f"{width[0]:,}–{width[2]:,} × {height[0]:,}–{height[2]:,}"),
        ("different sizes", f"{check.sizes:,}"),
    ]
    if check.mean and check.std:
        told += [("mean, RGB", _levels(check.mean)), ("deviation, RGB", _levels(check.std))]
    return facts(told)


def _levels(channels: Sequence[float]) -> str:
    return " ".join(f"{channel:.1f}" for channel in channels)


def _findings(check: DataCheck) -> str:
    harms = [f"<div class=harm><b>Harms training.</b> {text(harm)}</div>" for harm in check.harms]
    hints = [f"<div class=hint><b>Worth a look.</b> {text(hint)}</div>" for hint in check.hints]
    fine = [] if harms else ["<div class=fine>Nothing was found that would harm training.</div>"]
    return f"<h2>Findings</h2>{''.join([*fine, *harms, *hints])}"


def _figures(check: DataCheck) -> str:
    order = check.common_first
    shown = order[:SHOWN]
    longest = min(LETTERS, max(len(check.classes[at]) for at in shown))
    more = f", the {SHOWN} most common of {len(order)} classes" if len(order) > SHOWN else ""
    return "".join(
        [
            "<h2>Images of each class</h2>",
            drawn("classes", _class_counts(check, order), height=120 + 22 * len(order)),
            "<h2>Labels an image</h2>",
            drawn("labels", _label_counts(check), height=300),
            f"<h2>Classes together</h2><p class=quiet>Of the images with the class of a row, how many also carry that "
            f"of a column{more}.</p>",
            drawn("together", _together(check, shown), height=140 + 22 * len(shown) + 7 * longest),
        ]
    )


def _class_counts(check: DataCheck, order: Sequence[int]) -> go.Figure:
    figure = go.Figure(
        [
            go.Bar(
                name=name,
                orientation="h",
                x=[check.positives[name][at] for at in order],
                y=list(range(len(order))),
                marker_color=COLOURS[name],
                customdata=[label(check.classes[at]) for at in order],
                hovertemplate=f"%{{customdata}}: %{{x}} in {name}<extra></extra>",
            )
            for name in SPLITS
        ]
    )
    figure.update_layout(
        barmode="stack", legend={"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "normal"}
    )
    figure.update_xaxes(title="images")
    figure.update_yaxes(**_named(check, order), autorange="reversed")
    return figure


def _label_counts(check: DataCheck) -> go.Figure:
    figure = go.Figure(
        go.Bar(
            x=list(range(len(check.labels_per_image))),
            y=list(check.labels_per_image),
            marker_color=COLOURS["train"],
            hovertemplate="%{y} images with %{x} labels<extra></extra>",
        )
    )
    figure.update_xaxes(title="labels", dtick=max(1, len(check.labels_per_image) // 20))
    figure.update_yaxes(title="images")
    return figure


def _together(check: DataCheck, order: Sequence[int]) -> go.Figure:
    counts = [[check.together[row][column] for column in order] for row in order]
    own = [check.together[row][row] for row in order]
    # The diagonal, always all, would only take the colours away from the rest.
    shares = [
        [None if i == j else count / max(own[i], 1) for j, count in enumerate(row)] for i, row in enumerate(counts)
    ]
    told = [
        [
            f"{count} of {own[i]} images with {label(check.classes[order[i]])}, and {label(check.classes[order[j]])}"
            for j, count in enumerate(row)
        ]
        for i, row in enumerate(counts)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            customdata=told,
            hovertemplate="%{customdata}<extra></extra>",
            colorscale="Cividis",
            zmin=0,
            colorbar={"tickformat": ".0%", "title": "share"},
        )
    )
    figure.update_xaxes(**_named(check, order), tickangle=-60 if len(order) <= 40 else -90)
    figure.update_yaxes(**_named(check, order), autorange="reversed")
    return figure


def _named(check: DataCheck, order: Sequence[int]) -> dict[str, Any]:
    """Name the positions of an axis; plotly would read classes that are called 1 and 2 as numbers."""
    names = [check.classes[at] for at in order]
    short = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in names]
    return {"tickvals": list(range(len(order))), "ticktext": [label(name) for name in short]}


def _alike(check: DataCheck, pictures: _Pictures) -> str:
    if not check.alike:
        return ""
    groups = sorted(check.alike, key=lambda group: not group.leaks)
    parts = [f"<h2>The same picture more than once</h2>{_cut(len(groups))}"]
    for group in groups[:SHOWN]:
        title = "Copies" if group.identical else "Look the same"
        where = " in different splits" if group.leaks else ""
        labels = "" if group.one_label_set else ", with different labels"
        files = [f"{text(path)} ({split or 'unused'})" for path, split in zip(group.paths, group.splits, strict=True)]
        cut = f" and {len(files) - SAMPLES:,} more" if len(files) > SAMPLES else ""
        parts.append(f"<h3>{title}{where}{labels}</h3>{pictures.show(group.paths[:SAMPLES])}")
        parts.append(f"<p class=quiet>{', '.join(files[:SAMPLES])}{cut}</p>")
    return "".join(parts)


def _problems(check: DataCheck) -> str:
    if not check.problems:
        return ""
    rows = [
        f"<tr><td>{text(problem.where)}</td><td>{text(problem.reason)}</td></tr>" for problem in check.problems[:SHOWN]
    ]
    head = "<tr><th>where</th><th>why</th></tr>"
    return f"<h2>What cannot be used</h2>{_cut(len(check.problems))}<table>{head}{''.join(rows)}</table>"


def _cut(number: int) -> str:
    return f"<p class=quiet>The first {SHOWN} of {number:,}.</p>" if number > SHOWN else ""


def _samples(check: DataCheck, loaded: Loaded, pictures: _Pictures) -> str:
    labels, usable = loaded.labels, loaded.splits >= 0
    each = max(1, min(SAMPLES, PICTURES // len(check.classes)))
    parts = ["<h2>Samples of each class</h2>"]
    for number, name in enumerate(check.classes):
        rows = np.flatnonzero((labels[:, number] > 0) & usable)
        chosen = rows[np.arange(min(each, len(rows))) * len(rows) // max(min(each, len(rows)), 1)]
        counts = ", ".join(f"{check.positives[split][number]:,} {split}" for split in SPLITS)
        parts.append(f"<h3>{text(name)} <span class=quiet>{counts}</span></h3>")
        parts.append(pictures.show(loaded.listing.entries[row].path for row in chosen))
    return "".join(parts)
