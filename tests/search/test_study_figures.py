"""Figures of a search show every trial once, and what numpy or Optuna make of their values."""

from __future__ import annotations

import html
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from hypothesis import given, settings
from hypothesis import strategies as st

from search.importance import Importance, Importances, Method
from search.study_figures import importance_bars, optimization_history, slices, timeline
from search.views import TrialRow
from tests.search.test_data_page import SCRIPT

START: Final = datetime(2025, 1, 1, tzinfo=UTC)


def trial(number: int, state: str = "complete", value: float | None = None, **rest: Any) -> TrialRow:
    """Make a row; what little of it matters is given."""
    blank: dict[str, Any] = {
        "objective": "bce",
        "val_loss": value,
        "epoch": 3,
        "epochs": 3,
        "reports": {},
        "params": {},
        "paper": None,
        "repeats": None,
        "seed": 1,
        "seconds": 10.0,
        "started": START,
        "note": "",
        "failures": [],
        "metrics": {},
        "fit": {},
        "compute": {},
    }
    return TrialRow(number=number, state=state, value=value, **{**blank, **rest})


def searched(trials: int = 40) -> list[TrialRow]:
    """List trials of a search of all states, two at a time."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(trials):
        params: dict[str, Any] = {"optimizer": ("adam", "adamw")[number % 2], "lr": float(10 ** rng.uniform(-5, -2))}
        params |= {"batch_size": int(rng.choice([16, 64])), SCRIPT: 0.5} if number % 3 else {"gamma": rng.random()}
        state = ("complete", "complete", "pruned", "failed")[number % 4]
        rows.append(
            trial(
                number,
                state,
                None if state == "failed" else float(rng.uniform(0.03, 0.3)),
                params=params,
                paper=number + 1 if number < 5 else None,
                started=START + timedelta(seconds=number // 2 * 12),
                seconds=None if number == trials - 1 else 10.0,
            )
        )
    return rows


def importances() -> Importances:
    """Make shares of parameters, one of them with a hostile name, and one within what chance gives."""
    shares = {"lr": 0.7, SCRIPT: 0.2, "dropout": 0.1}
    rows = (Importance(key=key, share=share, chance=0.15, p=0.01, trials=40) for key, share in shares.items())
    facts = Importances(method=Method.PED_ANOVA, rows=(), trials=40, complete=12, top=5, paper=0, untold=())
    return replace(facts, rows=tuple(rows))


def named(figure: go.Figure, name: str) -> list[Any]:
    """Return the traces of that name."""
    return [trace for trace in figure.data if trace.name == name]


def test_the_history_never_gets_worse_and_ends_at_the_best() -> None:
    rows = searched()
    complete = [row for row in rows if row.state == "complete"]
    values = [row.value for row in complete if row.value is not None]
    figure = optimization_history(rows)
    (best,) = named(figure, "best so far")
    assert list(best.y) == np.minimum.accumulate(values).tolist()
    (pruned,) = named(figure, "pruned, at its last epoch")
    assert list(pruned.y) == [row.value for row in rows if row.state == "pruned"]
    assert named(figure, "documented, replayed")[0].x == (0, 1, 4)
    upwards = optimization_history([replace(row, objective="map") for row in rows])
    assert list(named(upwards, "best so far")[0].y) == np.maximum.accumulate(values).tolist()
    assert upwards.layout.yaxis.title.text == "mean average precision on validation"
    assert optimization_history([]).layout.annotations[0].text == "No trial is complete yet."


def test_slices_hold_every_complete_trial_once_a_parameter() -> None:
    rows = searched()
    figure = slices(rows)
    complete = [row for row in rows if row.state == "complete"]
    titles = [html.unescape(annotation.text) for annotation in figure.layout.annotations]
    assert set(titles) == {"optimizer", "lr", "batch_size", "gamma", SCRIPT}
    for at, key in enumerate(titles):
        panel = figure.data[3 * at : 3 * at + 3]
        drawn = sorted(
            (number, value) for trace in panel for number, value in zip(trace.customdata, trace.y, strict=True)
        )
        assert drawn == [(row.number, row.value) for row in complete if key in row.params]
        if key == "lr":
            given_ = {row.number: row.params["lr"] for row in complete}
            assert all(
                x == given_[number] for trace in panel for number, x in zip(trace.customdata, trace.x, strict=True)
            )
    assert slices([]).layout.annotations[0].text == "No trial is complete yet."


def test_importances_stand_beside_what_chance_gives_the_most_important_above() -> None:
    figure = importance_bars(importances())
    shares, chance = figure.data
    assert shares.x == (0.7, 0.2, 0.1)
    assert chance.x == (0.15, 0.15, 0.15)
    assert figure.layout.yaxis.ticktext[0] == "lr"
    assert figure.layout.yaxis.autorange == "reversed"
    empty = importance_bars(replace(importances(), rows=()))
    assert empty.layout.annotations[0].text == "Too few trials have finished."


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 30)), min_size=1, max_size=30))
def test_the_timeline_has_as_many_lines_as_trials_ran_at_once(ran: list[tuple[int, int]]) -> None:
    rows = [
        trial(number, value=0.1, started=START + timedelta(seconds=start), seconds=float(seconds))
        for number, (start, seconds) in enumerate(ran)
    ]
    bars = timeline(rows).data[0]
    at_once = max(sum(start <= moment < start + seconds for start, seconds in ran) for moment, _ in ran)
    assert max(bars.y) == at_once
    for line in range(1, at_once + 1):
        spans = sorted((b, b + x) for y, b, x in zip(bars.y, bars.base, bars.x, strict=True) if y == line)
        assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(spans))
    first = min(start for start, _ in ran)
    assert sorted((round(60 * b), round(60 * x)) for b, x in zip(bars.base, bars.x, strict=True)) == sorted(
        (start - first, seconds) for start, seconds in ran
    )
