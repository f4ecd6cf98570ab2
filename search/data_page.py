"""What was found in a data set, as one HTML file that needs no network: figures, sample pictures, what is wrong.

Not here: what is found (mlc_core); the same as text (drawing.py).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from mlc_core import SPLITS, DataCheck, Loaded, write_atomically

COLOURS: Final = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}  # Okabe & Ito: told apart by all eyes
SAMPLES: Final = 8  # pictures a class
PICTURES: Final = 600  # of samples at most, or one of each class
SIDE: Final = 96  # pixels of a picture
SHOWN: Final = 100  # rows of a table, and classes of the heat map; more cannot be read
LETTERS: Final = 40  # of a name in a figure

# Whatever a class is called, the page loads nothing and sends nothing.
_POLICY: Final = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1100px; margin: 0 auto;
  padding: 0 24px 64px; overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin-top: 40px; } h3 { margin: 20px 0 4px; font-size: 16px; }
.quiet { color: #555; font-weight: normal; } .quiet b { color: #1a1a1a; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.facts div { border: 1px solid #ccc; border-radius: 6px; padding: 8px 14px; }
.facts b { display: block; font-size: 20px; }
.harm, .hint, .fine { border-left: 5px solid; padding: 6px 12px; margin: 8px 0; }
.harm { border-color: #D55E00; background: #fdf1ea; } .hint { border-color: #0072B2; background: #eef6fb; }
.fine { border-color: #009E73; background: #ecf8f4; }
.pictures { display: flex; flex-wrap: wrap; gap: 6px; }
.pictures img { width: 96px; height: 96px; border-radius: 3px; }
table { border-collapse: collapse; } th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid #ddd;
  vertical-align: top; }
"""


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
        f"<h1>{_text(Path(check.root).name)}</h1><p class=quiet>{_text(check.root)} ({_text(check.format)})</p>",
        _facts(check),
        _findings(check),
        _figures(check),
        _alike(check, pictures),
        _problems(check),
        _samples(check, loaded, pictures),
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_text(Path(check.root).name)}: data check</title><style>{_STYLE}</style>"
    )
    page = (
        f'<!DOCTYPE html><html lang="en"><head>{head}<script>{get_plotlyjs()}</script></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )
    # A file name need not be UTF-8.
    write_atomically(path, page.encode("utf-8", "backslashreplace"), mode=0o644)


class _Pictures:
    """Small pictures by path, as data URIs."""

    def __init__(self, loaded: Loaded) -> None:
        self._images = loaded.store.images
        self._rows = {entry.path: row for row, entry in enumerate(loaded.listing.entries)}

    def show(self, paths: Iterable[str]) -> str:
        """Draw them side by side; the name is told when a pointer rests on one."""
        return f"<div class=pictures>{''.join(map(self._one, paths))}</div>"

    def _one(self, path: str) -> str:
        image = Image.fromarray(np.ascontiguousarray(self._images[self._rows[path]].transpose(1, 2, 0)))
        image.thumbnail((SIDE, SIDE))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=85)
        uri = b64encode(content.getvalue()).decode()
        return f'<img alt="{_text(path)}" title="{_text(path)}" src="data:image/jpeg;base64,{uri}">'


def _facts(check: DataCheck) -> str:
    width, height = check.width, check.height
    facts = [
        ("images", f"{sum(check.images.values()):,}"),
        ("classes", f"{len(check.classes):,}"),
        *((name, f"{check.images[name]:,}") for name in SPLITS),
        ("labels an image", f"{check.mean_labels:.2f}"),
        ("median size, pixels", f"{width[1]:,} × {height[1]:,}"),
        ("sizes, pixels", f"{width[0]:,}–{width[2]:,} × {height[0]:,}–{height[2]:,}"),
        ("different sizes", f"{check.sizes:,}"),
    ]
    if check.mean and check.std:
        facts += [("mean, RGB", _levels(check.mean)), ("deviation, RGB", _levels(check.std))]
    return f"<div class=facts>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in facts)}</div>"


def _levels(channels: Sequence[float]) -> str:
    return " ".join(f"{channel:.1f}" for channel in channels)


def _findings(check: DataCheck) -> str:
    harms = [f"<div class=harm><b>Harms training.</b> {_text(harm)}</div>" for harm in check.harms]
    hints = [f"<div class=hint><b>Worth a look.</b> {_text(hint)}</div>" for hint in check.hints]
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
            _drawn("classes", _class_counts(check, order), height=120 + 22 * len(order)),
            "<h2>Labels an image</h2>",
            _drawn("labels", _label_counts(check), height=300),
            f"<h2>Classes together</h2><p class=quiet>Of the images with the class of a row, how many also carry that "
            f"of a column{more}.</p>",
            _drawn("together", _together(check, shown), height=140 + 22 * len(shown) + 7 * longest),
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
                customdata=[_label(check.classes[at]) for at in order],
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
            f"{count} of {own[i]} images with {_label(check.classes[order[i]])}, and {_label(check.classes[order[j]])}"
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
    return {"tickvals": list(range(len(order))), "ticktext": [_label(name) for name in short]}


def _drawn(name: str, figure: go.Figure, *, height: int) -> str:
    figure.update_layout(template="plotly_white", height=height, margin={"l": 10, "r": 10, "t": 30, "b": 10})
    figure.update_layout(font={"size": 13, "color": "#1a1a1a"})
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    config = {"displayModeBar": False, "responsive": True, "typesetMath": False}
    drawn: str = figure.to_html(config, full_html=False, include_plotlyjs=False, div_id=name, default_height=height)
    return drawn


def _alike(check: DataCheck, pictures: _Pictures) -> str:
    if not check.alike:
        return ""
    groups = sorted(check.alike, key=lambda group: not group.leaks)
    parts = [f"<h2>The same picture more than once</h2>{_cut(len(groups))}"]
    for group in groups[:SHOWN]:
        title = "Copies" if group.identical else "Look the same"
        where = " in different splits" if group.leaks else ""
        labels = "" if group.one_label_set else ", with different labels"
        files = [f"{_text(path)} ({split or 'unused'})" for path, split in zip(group.paths, group.splits, strict=True)]
        cut = f" and {len(files) - SAMPLES:,} more" if len(files) > SAMPLES else ""
        parts.append(f"<h3>{title}{where}{labels}</h3>{pictures.show(group.paths[:SAMPLES])}")
        parts.append(f"<p class=quiet>{', '.join(files[:SAMPLES])}{cut}</p>")
    return "".join(parts)


def _problems(check: DataCheck) -> str:
    if not check.problems:
        return ""
    rows = [
        f"<tr><td>{_text(problem.where)}</td><td>{_text(problem.reason)}</td></tr>"
        for problem in check.problems[:SHOWN]
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
        parts.append(f"<h3>{_text(name)} <span class=quiet>{counts}</span></h3>")
        parts.append(pictures.show(loaded.listing.entries[row].path for row in chosen))
    return "".join(parts)


def _text(words: str) -> str:
    """Make text of whatever a data set says, wherever in the page it stands."""
    return escape(words, quote=True)


def _label(words: str) -> str:
    """Make text of it in a figure: plotly reads markup in names, and of the quotation marks no other spelling."""
    return escape(words, quote=False)
