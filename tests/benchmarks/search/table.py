"""The comparison as tables: time to the target, ratios, what the workers did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from tests.benchmarks.search.results import Interval, Runs, best_at, by_tool, median, speedup, target, times_to
from tests.benchmarks.search.simulate import Run
from tests.benchmarks.search.tools import OURS, PLAIN, TOOLS


def rows(runs: Sequence[Run], workers: int) -> list[dict[str, Any]]:
    """Compare the tools with so many workers, the fastest first; ready for JSON but for its dataclasses.

    Raises
    ------
    ValueError
        Plain Optuna is missing or ended too early, so there is no target.
    """
    tools = by_tool(runs, workers)
    if PLAIN not in tools:
        raise ValueError(f"No run of {PLAIN} with {workers} workers is there, by which the others are measured.")
    loss = target(tools)
    lowest = min(run.best[-1][1] for run in runs)
    told = [_row(name, tools, loss, lowest, runs) for name in tools]
    return sorted(told, key=lambda row: (row["time"].value, row["tool"]))


def _row(name: str, tools: Runs, loss: float, lowest: float, runs: Sequence[Run]) -> dict[str, Any]:
    own = tools[name]
    workers, times = own[0].workers, times_to(own, loss)
    ends = np.array([best_at(run, np.array([run.horizon]))[0] for run in own])
    alone = by_tool(runs, 1).get(name)
    return {
        "tool": name,
        "workers": workers,
        "seeds": len(own),
        "target": loss,
        "reached": int(np.isfinite(times).sum()),
        "time": median(times),
        "faster_than_plain": speedup(tools[PLAIN], own, loss) if name != PLAIN else None,
        "ours_faster": speedup(own, tools[OURS], loss) if OURS in tools and name != OURS else None,
        "regret": median(ends - lowest),
        # Both to the loss that is the target here: how much of so many workers' time is worth what one worker's is.
        "efficiency": speedup(alone, own, loss).value / workers if alone and workers > 1 else None,
        "busy": 1 - float(np.mean([run.idle / (run.horizon * workers) for run in own])),
        "trials": float(np.median([run.trials for run in own])),
        "epochs": float(np.median([run.epochs for run in own])),
    }


def drawn(told: Sequence[dict[str, Any]]) -> Table:
    """Draw the rows of one number of workers for people."""
    workers, loss, seeds = told[0]["workers"], told[0]["target"], sorted({row["seeds"] for row in told})
    table = Table(
        title=f"{workers} simulated worker{'s' * (workers > 1)}, {'-'.join(map(str, seeds))} seeds: to validation loss "
        f"{loss:.4f}, which plain Optuna has after 50 full trials; medians, 95 % intervals",
        caption="* knows no conditions: every branch's parameters always",
    )
    for heading in ("tool", "seconds to it", "came there", "x plain", "ours x it", "regret at the end", "efficiency",
                    "busy", "trials", "epochs"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "tool" else "right")
    for row in told:
        entry = TOOLS.get(row["tool"])
        table.add_row(
            row["tool"] + ("" if entry is None or entry.conditional else " *"),
            _spelled(row["time"], ".0f"),
            f"{row['reached']} of {row['seeds']}",
            "1" if row["faster_than_plain"] is None else _spelled(row["faster_than_plain"], ".2f"),
            "" if row["ours_faster"] is None else _spelled(row["ours_faster"], ".2f"),
            _spelled(row["regret"], ".4f"),
            "" if row["efficiency"] is None else f"{row['efficiency']:.2f}",
            f"{row['busy']:.0%}",
            f"{row['trials']:.0f}",
            f"{row['epochs']:.0f}",
        )
    return table


def as_json(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spell the rows so that JSON can hold them: what never came is null."""
    return [{key: _plain(value) for key, value in row.items()} for row in told]


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {key: _plain(each) for key, each in asdict(value).items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _spelled(told: Interval, form: str) -> str:
    value, low, high = ("never" if math.isinf(each) else format(each, form) for each in asdict(told).values())
    return f"{value} [{low}, {high}]"
