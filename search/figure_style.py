"""What all figures share: colours, dashes, limits, axes, panels, and how names are spelled in them.

No colour alone carries meaning: lines also differ in dash or marker, bars in pattern, and cells hold their number.
Not here: the figures (figures.py, curves.py, study_figures.py); their files (figure_files.py).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.page import label

SHOWN: Final = 100  # classes of a bar chart or matrix, kinds of error, parameters; more cannot be read
PANELS: Final = 60  # small figures in one
LETTERS: Final = 40  # of a name

INK: Final = "#1a1a1a"
_GRID: Final = "#e3e3e3"
PATTERN: Final = {"fillmode": "overlay", "fgcolor": "#fff", "size": 6, "solidity": 0.3}
# Okabe & Ito 2008, told apart by all eyes; without the yellow, which white paper swallows, and black, which means.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash")  # five to six colours: no pair comes back before 30
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
        "font": {"family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "colorway": COLOURS,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": "#fff", "font": {"color": INK}},
        "hovermode": "closest",
        "legend": {"title": {"font": {"size": 13}}, "tracegroupgap": 0},
        "margin": {"l": 10, "r": 10, "b": 10},
        "title": {"x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 20, "l": 10}, "font": {"size": 16}},
    }
)


def finished(figure: go.Figure, title: str, note: str = "", *, height: int, above: int = 4) -> go.Figure:
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


def nothing(title: str, words: str) -> go.Figure:
    """Make a figure that only says why it is empty."""
    figure = go.Figure()
    figure.add_annotation(text=words, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return finished(figure, title, height=120)


def short_name(words: str, letters: int = LETTERS) -> str:
    """Make text of a name, at most so long; what is no Unicode, as in file names of old, is spelled out."""
    clean = words.encode("utf-8", "backslashreplace").decode()
    return label(clean if len(clean) <= letters else f"{clean[: letters - 1]}…")


def named_ticks(names: Sequence[str]) -> dict[str, Any]:
    """Name the positions of an axis; plotly would read classes that are called 1 and 2 as numbers."""
    return {"tickvals": list(range(len(names))), "ticktext": [short_name(name) for name in names]}


def cut_note(shown: int, there: int, which: str, what: str = "classes") -> str:
    """Say for a note how much was left out; nothing if all is shown."""
    return f" Shown: the {shown} {which} of {there:,} {what}." if shown < there else ""


def panels(titles: Sequence[str], *, across: int, height: int) -> tuple[go.Figure, int, int]:
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


def log_axis(values: Iterable[float]) -> dict[str, Any]:
    """Make an axis logarithmic if all values allow it, with ticks that are plain numbers."""
    known = [value for value in values if math.isfinite(value)]
    if not known or min(known) <= 0:
        return {}
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if max(known) <= 50 * min(known) else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:.3g}" for tick in ticks]}
