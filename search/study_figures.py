"""Figures of a search: its history, what decided, and when its trials ran; each one function.

Not here: where the rows come from (views.py); figures of a model (figures.py, curves.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

import plotly.graph_objects as go

from mlc_core import Measure, Objective, Value
from search.figure_style import (
    COLOURS,
    INK,
    PANELS,
    PATTERN,
    SHOWN,
    finished,
    log_axis,
    named_ticks,
    nothing,
    panels,
    short_name,
)
from search.importance import Importances
from search.views import TrialRow, front, leaderboard

_VALUES: Final[dict[Objective, str]] = {
    "bce": "validation loss (BCE), nats",
    "macro_f1": "macro F1 on validation",
    "map": "mean average precision on validation",
}


_SECONDS: Final[dict[Measure, str]] = {"latency": "milliseconds an image", "size": "megabytes of weights"}


def optimization_history(rows: Iterable[TrialRow]) -> go.Figure:
    """Value of each trial in the order of their numbers, and the best so far."""
    rows = list(rows)
    complete = [row for row in rows if row.state == "complete"]
    if not complete:
        return nothing("History of the search", "No trial is complete yet.")
    figure = go.Figure()
    for name, some, colour, symbol in (
        ("complete", [row for row in complete if row.paper is None], COLOURS[0], "circle"),
        ("documented, replayed", [row for row in complete if row.paper is not None], COLOURS[1], "diamond"),
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
        line={"color": INK, "shape": "hv", "width": 1.5},
        customdata=[row.number for row in best],
        hovertemplate="best up to trial %{x}: %{y:.4g}, of trial %{customdata}<extra></extra>",
    )
    figure.update_xaxes(title="trial", tickformat="d", nticks=20)
    figure.update_yaxes(title=_VALUES[complete[0].objective], **_value_axis(rows))
    return finished(figure, "History of the search", height=370)


def _better(one: TrialRow, other: TrialRow) -> TrialRow:
    return min(one, other, key=lambda row: row.rank)


def pareto_front(rows: Iterable[TrialRow]) -> go.Figure:
    """Value of the complete trials over the second objective; those on the front are joined, and bear their numbers."""
    title = "The front"
    complete = [row for row in rows if row.state == "complete" and row.second is not None]
    if not complete:
        return nothing(title, "No trial is complete yet.")
    leading = sorted(front(complete), key=lambda row: row.second or 0.0)
    on_front = {row.number for row in leading}
    behind = [row for row in complete if row.number not in on_front and not row.over]
    figure = go.Figure()
    for name, some, marker in (
        ("on the front", leading, {"color": COLOURS[0], "symbol": "circle", "size": 12}),
        ("behind it", behind, {"color": "#777", "symbol": "circle-open", "size": 8}),
        ("over a limit", [row for row in complete if row.over], {"color": COLOURS[1], "symbol": "x", "size": 9}),
    ):
        figure.add_scatter(
            x=[row.second for row in some],
            y=[row.value for row in some],
            name=name,
            showlegend=bool(some),
            mode="lines+markers+text" if some is leading else "markers",
            line={"shape": "hv", "width": 1.5},
            text=[str(row.number) for row in some],
            textposition="top right",
            marker=marker,
            customdata=[(row.number, row.over) for row in some],
            hovertemplate="trial %{customdata[0]}: %{x:.3g}, %{y:.4g} %{customdata[1]}<extra></extra>",
        )
    measure = complete[0].against or "latency"
    figure.update_xaxes(title=_SECONDS[measure], **_wide_axis([row.second for row in complete if row.second]))
    values = [row.value for row in complete if row.value is not None]
    figure.update_yaxes(title=_VALUES[complete[0].objective], **_wide_axis(values))
    note = "Joined: trials that none other beats in one objective without being worse in the other; by their numbers."
    return finished(figure, title, note, height=370)


def importance_bars(found: Importances) -> go.Figure:
    """How much each parameter decided, beside what chance alone gives."""
    title = "Importance of the parameters"
    if not found.rows:
        return nothing(title, "Too few trials have finished.")
    shown = found.rows[:SHOWN]
    figure = go.Figure()
    figure.add_bar(
        x=[row.share for row in shown],
        y=list(range(len(shown))),
        name="importance",
        orientation="h",
        marker_color=COLOURS[0],
        text=[f"{row.share:.0%}" for row in shown],
        textposition="outside",
        cliponaxis=False,
        customdata=[(short_name(row.key), row.trials) for row in shown],
        hovertemplate="%{customdata[0]}: %{x:.1%}, of %{customdata[1]} trials<extra></extra>",
    )
    figure.add_scatter(
        x=[row.chance for row in shown],
        y=list(range(len(shown))),
        name="chance alone gives up to",
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 16, "color": INK, "line": {"width": 2}},
        hovertemplate="chance alone: up to %{x:.1%}<extra></extra>",
    )
    figure.update_xaxes(title="importance", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(**named_ticks([row.key for row in shown]), autorange="reversed")
    return finished(figure, title, height=100 + 28 * len(shown))


def slices(rows: Iterable[TrialRow]) -> go.Figure:
    """Value of the complete trials over each parameter; the best is marked."""
    ranked = leaderboard(rows)
    keys = list(dict.fromkeys(key for row in ranked for key in row.params))[:PANELS]
    if not keys:
        return nothing("Value over each parameter", "No trial is complete yet.")
    figure, across, down = panels([short_name(key) for key in keys], across=4, height=200)
    named = set()
    for place, key in enumerate(keys):
        row, column = place // across + 1, place % across + 1
        own = [one for one in ranked if key in one.params]
        axis, spelled = _parameter_axis([one.params[key] for one in own])
        figure.update_xaxes(**axis, row=row, col=column)
        for name, some, colour, symbol in (
            ("complete", [one for one in own[1:] if one.paper is None], COLOURS[0], "circle-open"),
            ("documented, replayed", [one for one in own[1:] if one.paper is not None], COLOURS[1], "diamond"),
            ("best with the parameter", own[:1], INK, "star"),
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
    return finished(figure, "Value over each parameter", height=60 + 200 * down, above=24)


def timeline(rows: Iterable[TrialRow]) -> go.Figure:
    """When each finished trial trained, on as many lines as trained at once."""
    ran = [(row.started.timestamp(), row.seconds, row) for row in rows if row.started and row.seconds is not None]
    if not ran:
        return nothing("Trials over time", "No trial has finished yet.")
    ran.sort(key=lambda one: (one[0], one[2].number))
    ends: list[float] = []  # of the last trial on each line
    lanes = []
    for start, seconds, _ in ran:
        lane = next((lane for lane, end in enumerate(ends) if end <= start), len(ends))
        ends[lane : lane + 1] = [start + seconds]
        lanes.append(lane + 1)
    figure = go.Figure()
    for state, colour, pattern in (
        ("complete", COLOURS[5], ""),
        ("pruned", COLOURS[4], "/"),
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
            marker={"color": colour, "line": {"color": INK, "width": 1}, "pattern": {**PATTERN, "shape": pattern}},
            text=[str(row.number) for *_, row in some],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": INK},
            customdata=[(row.number, row.seconds, value) for (*_, row), value in zip(some, values, strict=True)],
            hovertemplate="trial %{customdata[0]}, %{fullData.name} after %{customdata[1]:.1f} s: %{customdata[2]}"
            "<extra></extra>",
        )
    figure.update_layout(barmode="overlay", uniformtext={"minsize": 9, "mode": "hide"})
    figure.update_xaxes(title="minutes since the first trial started", rangemode="tozero")
    figure.update_yaxes(title="at once", dtick=max(1, len(ends) // 20), autorange="reversed")
    note = "Time spent training. An interrupted trial is drawn from its last start, as long as all attempts together."
    return finished(figure, "Trials over time", note, height=110 + 34 * min(len(ends), 30))


def _wide_axis(values: Sequence[float]) -> dict[str, Any]:
    """Make an axis logarithmic where values are far apart; elsewhere it would have no tick between them."""
    return log_axis(values) if max(values) > 10 * min(values) > 0 else {}


def _value_axis(rows: Sequence[TrialRow]) -> dict[str, Any]:
    if rows[0].objective != "bce":
        return {}
    return log_axis(row.latest for row in rows if row.latest is not None and row.state in ("complete", "pruned"))


def _parameter_axis(values: Sequence[Value]) -> tuple[dict[str, Any], Callable[[Value], float | str]]:
    """Make the axis of a parameter, and how its values are given to it."""
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    few = len(set(values)) <= 6 and not any(isinstance(value, float) for value in values)
    if len(numbers) < len(values) or few:
        order = sorted(set(values), key=lambda value: (isinstance(value, str), value))
        return {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [short_name(str(value)) for value in order],
        }, lambda v: short_name(str(v))
    return log_axis(numbers) if min(numbers) > 0 and max(numbers) > 30 * min(numbers) else {}, float
