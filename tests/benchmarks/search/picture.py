"""The comparison as a picture: simple regret over simulated time, a panel for each number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.figure_files import Format, save_figures
from search.figure_style import COLOURS, DASHES, finished, log_axis
from tests.benchmarks.search.results import FULL, best_at, by_tool, median, target
from tests.benchmarks.search.simulate import Run
from tests.benchmarks.search.tools import OURS, PLAIN, TOOLS

MOMENTS: Final = 120  # at which the medians are drawn
HEIGHT: Final = 420  # pixels of a panel
LEAST: Final = 1e-4  # nats: regret that a logarithmic axis still shows


def save(runs: Sequence[Run], folder: Path, formats: Sequence[Format]) -> list[Path]:
    """Write the picture in each format."""
    return save_figures({"regret": draw(runs)}, folder, formats)


def draw(runs: Sequence[Run]) -> go.Figure:
    """Draw the median over seeds of each tool's regret, and the interval of that median.

    Regret is the best loss so far above the lowest that any run of the comparison has found.
    """
    numbers = sorted({run.workers for run in runs})
    lowest = min(run.best[-1][1] for run in runs)
    names = [name for name in TOOLS if any(run.tool == name for run in runs)]
    titles = [f"{workers} worker{'s' * (workers > 1)}" for workers in numbers]
    figure = make_subplots(rows=len(numbers), cols=1, subplot_titles=titles, vertical_spacing=0.12 / len(numbers))
    for panel, workers in enumerate(numbers, start=1):
        tools = by_tool(runs, workers)
        end = max(run.horizon for own in tools.values() for run in own)
        times = np.geomspace(end / 200, end, MOMENTS)
        for place, name in enumerate(names):
            if name in tools:
                losses = np.array([best_at(run, times) for run in tools[name]])
                _add(figure, panel, place, name, times, losses - lowest)
        if PLAIN in tools and all(len(run.full) >= FULL for run in tools[PLAIN]):
            figure.add_hline(
                y=max(target(tools) - lowest, LEAST),
                line={"color": "#777", "width": 1, "dash": "dot"},
                row=panel,
                col=1,
            )
        figure.update_xaxes(type="log", title_text="simulated seconds" if panel == len(numbers) else None, row=panel)
        figure.update_yaxes(title_text="regret", **log_axis([LEAST, 0.5]), row=panel)
    note = (
        "Median over seeds of the best validation loss so far, above the lowest that any run found; bands: 95 % "
        "intervals of the median. Dotted: what plain Optuna has after 50 full trials."
    )
    return finished(figure, "Simple regret over simulated time", note, height=HEIGHT * len(numbers), above=60)


def _add(figure: go.Figure, panel: int, place: int, name: str, times: np.ndarray, regrets: np.ndarray) -> None:
    there = np.isfinite(regrets).all(axis=0)  # before, a seed has no report yet
    if not there.any():
        return
    told = [median(column) for column in np.maximum(regrets[:, there], LEAST).T]
    colour = COLOURS[place % len(COLOURS)]
    lows, highs = [each.low for each in told], [each.high for each in told]
    moments = list(times[there])
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    figure.add_scatter(
        x=moments + moments[::-1], y=highs + lows[::-1], fill="toself", fillcolor=f"rgba({red},{green},{blue},0.12)",
        line={"width": 0}, legendgroup=name, showlegend=False, hoverinfo="skip", row=panel, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=moments, y=[each.value for each in told], name=name, legendgroup=name, showlegend=panel == 1, mode="lines",
        line={"color": colour, "dash": DASHES[place // len(COLOURS)], "width": 3.5 if name == OURS else 1.8},
        row=panel, col=1,
    )  # fmt: skip
