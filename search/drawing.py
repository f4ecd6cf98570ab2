"""Rows as rich tables and lines of text; whatever is printed of a study is made here.

Not here: what moves while a search runs (progress.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from mlc_core import SCHEDULER_KEYS, Objective, Value, cost
from search.confirm import Verdict
from search.convergence import CONFIDENCE, Bound
from search.footprints import UNITS
from search.forecast import LEVEL, Forecast
from search.promotion import Rung
from search.views import Comparison, Counts, TrialRow, front, leaderboard

if TYPE_CHECKING:  # these import torch, or read pictures, which a status does not need
    from mlc_core import DataCheck
    from search.doctor import Finding

LEADERS = 10  # rows of a leaderboard after a run
PROBLEMS = 10  # of a data set, listed on a terminal
PAIRS = 3  # of classes that occur together, named on a terminal
NAMES: Mapping[Objective, str] = {"bce": "validation loss", "macro_f1": "macro F1", "map": "mAP"}
MEASURED = ("latency", "size")  # headings of what a network takes
_COLOURS = {
    "complete": "green",
    "pruned": "yellow",
    "paused": "blue",
    "running": "cyan",
    "waiting": "dim",
    "failed": "red",
}


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as far as they are needed."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def settings(params: Mapping[str, Value]) -> str:
    """Parameters in one line."""
    return " ".join(f"{key}={_short(value)}" for key, value in params.items())


def kind(row: TrialRow) -> str:
    """Where the trial comes from."""
    if row.repeats is not None:
        return f"trial {row.repeats}"
    if row.warm_start is not None:
        return "warm start"
    return f"paper {row.paper}" if row.paper is not None else "search"


def trials_table(rows: Sequence[TrialRow], *, title: str) -> Table:
    """One line a trial, with a column for each parameter that one of them has; a scheduler's own stand beside it."""
    table = plain_table(title)
    value = NAMES[rows[0].objective] if rows else NAMES["bce"]
    for heading in ("trial", "from", "state", value, "epochs"):
        table.add_column(heading, justify="right" if heading in ("trial", value, "epochs") else "left")
    keys = dict.fromkeys(key for row in rows for key in row.params if key not in SCHEDULER_KEYS)
    for key in keys:
        table.add_column(key.replace("_", " "), justify="left" if key == "scheduler" else "right")
    for row in rows:
        table.add_row(
            str(row.number),
            kind(row),
            Text(row.state, style=_COLOURS[row.state]),
            number(row.latest),
            f"{row.epoch}/{row.epochs}",
            *(_cell(row, key) for key in keys),
        )
    return table


def front_table(rows: Sequence[TrialRow], *, title: str) -> Table:
    """One line a trial of the front: both objectives, and the network."""
    table = plain_table(title)
    value = NAMES[rows[0].objective] if rows else NAMES["bce"]
    for heading in ("trial", value, *MEASURED, "backbone", "stem", "image size", "epochs"):
        table.add_column(heading, justify="left" if heading in ("backbone", "stem") else "right")
    for row in rows:
        network = row.fit.get("params", {})
        table.add_row(
            str(row.number),
            number(row.value),
            *measured(row).values(),
            *(str(network.get(key, "-")) for key in ("backbone", "stem", "image_size")),
            f"{row.epoch}/{row.epochs}",
        )
    return table


def leaders_table(rows: Sequence[TrialRow], *, title: str, top: int) -> Table:
    """Draw the best trials, with two objectives those of the front."""
    leading = front(rows)
    return front_table(leading[:top], title=title) if leading else trials_table(leaderboard(rows)[:top], title=title)


def over_lines(rows: Iterable[TrialRow]) -> list[str]:
    """Say how many trials were not trained, as they are over a limit, and over which."""
    reasons: dict[str, list[int]] = {}
    for row in rows:
        if row.over and row.state == "pruned" and not row.reports:
            reasons.setdefault(row.over, []).append(row.number)
    return [f"Not trained: trial {', '.join(map(str, numbers))}: {reason}" for reason, numbers in reasons.items()]


def measured(row: TrialRow) -> dict[str, str]:
    """Spell what a trial's network takes."""
    if row.footprint is None:
        return dict.fromkeys(MEASURED, "-")
    return dict(zip(MEASURED, (f"{row.footprint.latency:.3g} ms", f"{row.footprint.size:.3g} MB"), strict=True))


def trial_table(row: TrialRow) -> Table:
    """Everything about one trial."""
    table = plain_table(f"Trial {row.number}", header=False)
    table.add_column(style="bold")
    table.add_column()
    start = row.warm_start
    lines = {
        "from": kind(row) if start is None else f"{kind(row)}: trial {start['trial']} of study {start['study']!r}",
        "state": row.state,
        NAMES[row.objective]: number(row.latest),
        "epochs": f"{row.epoch} of {row.epochs}",
        "seed": "-" if row.seed is None else str(row.seed),
        "trained for": "-" if row.seconds is None else duration(row.seconds),
        "started": "-" if row.started is None else row.started.strftime("%Y-%m-%d %H:%M:%S UTC"),
        **{key: _short(value) for key, value in row.params.items()},
        "computed": settings(row.compute) or "-",
        **(measured(row) if row.footprint else {}),
        **({"limits": _limits(row)} if row.limits else {}),
        "by epoch": " ".join(f"{value:.4f}" for value in row.reports.values()) or "-",
    }
    for heading, text in lines.items():
        table.add_row(heading, Text(text))
    if row.note and row.note not in (*row.failures, row.over):
        table.add_row("note", Text(row.note))
    for place, failure in enumerate(row.failures, start=1):
        table.add_row(f"failure {place}", Text(failure))  # an exception's text: its brackets are no markup
    return table


def _limits(row: TrialRow) -> str:
    limits = ", ".join(f"{measure} {limit:g} {UNITS[measure]}" for measure, limit in row.limits.items())
    return row.over or limits


def failures_table(rows: Sequence[TrialRow]) -> Table:
    """One line for each trial that was given up, or failed and will be tried again."""
    table = plain_table("Failed")
    for heading in ("trial", "state", "failures", "last"):
        table.add_column(heading, justify="right" if heading in ("trial", "failures") else "left")
    for row in rows:
        last = row.failures[-1].splitlines()[0] if row.failures[-1] else ""
        table.add_row(str(row.number), Text(row.state, style=_COLOURS[row.state]), str(len(row.failures)), Text(last))
    return table


def best_line(row: TrialRow) -> str:
    """Name the best trial."""
    over = f", but {row.over}" if row.over else ""
    return f"Best {NAMES[row.objective]}: {number(row.value)}, trial {row.number}{over}"


def forecast_line(coming: Forecast) -> str:
    """Say what the next trials will bring."""
    about = "" if coming.seconds is None else f", about {_roughly(coming.seconds)}"
    return (
        f"Expected gain of the next {coming.trials} trials: {_gain(coming.gain)} "
        f"({LEVEL:.0%} interval {_gain(coming.low)} to {_gain(coming.high)}){about}"
    ).replace("%", " %", 1)


def bound_line(bound: Bound) -> str:
    """Say what can still be gained, and what that is to be compared with."""
    source = "between seeds" if bound.noise.source == "seeds" else "of the best trials' last epochs"
    compared = "less than" if bound.converged else "not less than"
    return (
        f"{bound.trials} more trials would gain at most {_gain(bound.regret)} (with {CONFIDENCE:.0%} confidence), "
        f"{compared} the noise {source}, {_gain(bound.noise.deviation)}."
    ).replace("%", " %", 1)


def _gain(value: float) -> str:
    return "0" if value < 5e-7 else f"{value:.2g}"


def _roughly(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def params_table(row: TrialRow, fixed: Mapping[str, Value]) -> Table:
    """Parameters of a trial, the fixed ones included."""
    table = plain_table(None, header=False)
    table.add_column(style="bold")
    table.add_column()
    for key, value in {**fixed, **row.params}.items():
        table.add_row(key.replace("_", " "), _short(value))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Documented beside replayed losses, with what was assumed."""
    table = plain_table("The documented trials and their replays")
    for heading in ("trial", "documented", "assumed", "documented loss", "replayed loss", "replay"):
        table.add_column(heading, justify="right" if "loss" in heading or heading == "trial" else "left")
    for row in comparison.rows:
        table.add_row(
            str(row.number),
            settings(row.documented),
            settings(row.assumed),
            number(row.documented_loss),
            number(row.replayed_loss),
            Text(row.state, style=_COLOURS.get(row.state, "dim")),
        )
    return table


def comparison_words(comparison: Comparison) -> list[str]:
    """Say what the comparison can and cannot tell."""
    lines = [
        "The document's data are not available and the replays train on others: only the order can be compared.",
        "Epochs, image size, ResNet depth and augmentation are the study's; the document states none of them.",
        "Replays average no weights and favour no rare classes, whatever the study does: the document did neither.",
    ]
    correlation = comparison.rank_correlation
    if correlation is None:
        lines.append(
            "Rank correlation: too few complete replays. Enqueue the documented trials if they do not wait, then run."
        )
    else:
        lines.append(f"Rank correlation of documented and replayed losses (Spearman): {correlation:+.2f}.")
    replayed = [row.replayed_loss for row in comparison.rows if row.replayed_loss is not None]
    if replayed and comparison.best_searched is not None:
        ratio = comparison.best_searched / min(replayed)
        lines.append(
            f"Best of the open search: {number(comparison.best_searched)}, "
            f"{ratio:.2f} times the best replay's {number(min(replayed))}."
        )
    return lines


def confirmation_table(verdicts: Sequence[Verdict]) -> Table:
    """Set confirmed trials, best first, beside the first one."""
    value = NAMES[verdicts[0].row.objective] if verdicts else NAMES["bce"]
    table = plain_table("Confirmed over fresh seeds")
    for heading in ("rank", "trial", "searched", f"mean {value}", "spread", "worst", "seeds", "behind the first"):
        table.add_column(heading, justify="right")
    table.add_column("told apart")
    table.add_column("parameters")
    for place, verdict in enumerate(verdicts, start=1):
        row, behind = verdict.row, "-"
        if verdict.behind is not None:
            margin = "" if verdict.margin is None else f" ± {number(verdict.margin)}"
            behind = f"{verdict.behind:+.4g}{margin}"
        costs = sorted(row.values.values(), key=lambda value: cost(value, row.objective))
        table.add_row(
            str(place),
            str(row.trial.number),
            number(row.trial.value),
            number(row.mean),
            number(row.spread),
            number(costs[-1] if costs else None),
            f"{len(row.values)}" + (f" of {len(row.values) + row.missing}" if row.missing else ""),
            behind,
            "-" if verdict.behind is None else ("yes" if verdict.told_apart else "no"),
            settings(row.trial.params),
        )
    return table


def confirmation_words(verdicts: Sequence[Verdict]) -> list[str]:
    """Say which is the best, and what cannot be told from it."""
    if not verdicts or not verdicts[0].row.values:
        return ["No repetition is complete yet."]
    first = verdicts[0].row
    lines = [
        f"First: trial {first.trial.number}. Ranked by mean plus one deviation over the same fresh seeds, "
        "so that a steady trial goes before a lucky one."
    ]
    same = [str(one.row.trial.number) for one in verdicts[1:] if one.behind is not None and not one.told_apart]
    if same:
        plural = "s" if len(same) > 1 else ""
        lines.append(
            f"Trial{plural} {', '.join(same)} cannot be told apart from it (95 %, paired by seed). More --seeds would "
            "tell, or choose by cost."
        )
    lost = [str(one.row.trial.number) for one in verdicts if one.row.missing]
    if lost:
        lines.append(f"Not every repetition of trial {', '.join(lost)} is complete; they rank last.")
    return lines


def studies_table(rows: Iterable[tuple[str, Counts, float | None]]) -> Table:
    """One line a study."""
    table = plain_table("Studies")
    for heading in ("study", "complete", "pruned", "running", "paused", "waiting", "failed", "best"):
        table.add_column(heading, justify="left" if heading == "study" else "right")
    for name, counted, best in rows:
        figures = (counted.complete, counted.pruned, counted.running, counted.paused, counted.waiting, counted.failed)
        table.add_row(name, *(str(figure) for figure in figures), number(best))
    return table


def rung_lines(rungs: Iterable[Rung], errors: Mapping[int, float]) -> list[str]:
    """Say where trials pause, how far the ranks there can be trusted, and how well ends are foretold."""
    lines = []
    for rung in rungs:
        trusted = "" if rung.correlation is None else f", rank correlation with the next rung {rung.correlation:.2f}"
        lines.append(f"Rung after epoch {rung.epoch}: of {len(rung.reached)} trials {rung.quota} go on{trusted}")
    if errors:
        epoch, error = next(iter(errors.items()))
        lines.append(f"Ends foretold after epoch {epoch}: off by {math.expm1(error):.0%}, leave-one-out")
    return lines


def check_tables(found: DataCheck) -> list[Table | Text]:
    """Draw what is worth knowing of a data set, with what would harm training at the end."""
    total = sum(found.images.values())
    width, height = ("-".join(str(end) for end in dict.fromkeys(span[::2])) for span in (found.width, found.height))
    facts = plain_table(f"{found.root} ({found.format})", header=False)
    facts.add_column(style="bold")
    facts.add_column()
    for heading, text in {
        "images": f"{total}: " + ", ".join(f"{count} {name}" for name, count in found.images.items()),
        "splits": "the data's own" if not found.made else f"{found.made} images were put into theirs by us",
        "labels an image": f"{found.mean_labels:.2f} on average; "
        + ", ".join(f"{count} with {labels}" for labels, count in enumerate(found.labels_per_image) if count),
        "together most often": ", ".join(_together(found)) or "-",
        "pixels": f"{width} x {height}" + (f", {found.sizes} sizes" if found.sizes > 1 else ""),
        "files of one picture": f"{len(found.alike)} groups, {len(found.leaks)} of them in several splits",
        "mean, deviation (RGB)": "; ".join(_levels(levels) for levels in (found.mean, found.std)),
    }.items():
        facts.add_row(heading, Text(text))  # class names are no markup
    classes = plain_table("Images of each class")
    classes.add_column("class")
    for name in ("all", *found.images):
        classes.add_column(name, justify="right")
    for at in found.common_first:
        counts = (found.together[at][at], *(found.positives[split][at] for split in found.images))
        classes.add_row(Text(found.classes[at]), *(str(count) for count in counts))
    problems = plain_table("Rows and files that cannot be used")
    problems.add_column("where")
    problems.add_column("why")
    for problem in found.problems[:PROBLEMS]:
        problems.add_row(Text(problem.where), Text(problem.reason))
    if len(found.problems) > PROBLEMS:
        problems.add_row(f"{len(found.problems) - PROBLEMS} more", "see --json or --html")
    hints = [Text(f"Note: {hint}", style="yellow") for hint in found.hints]
    harms = [Text(f"Harmful: {harm}", style="bold red") for harm in found.harms]
    listed = [problems] if found.problems else []
    return [
        facts,
        classes,
        *listed,
        *hints,
        *(harms or [Text("Nothing that would harm training was found.", style="green")]),
    ]


def _together(found: DataCheck) -> list[str]:
    """Name the pairs of classes that share most images."""
    pairs = [(row, column) for row in range(len(found.classes)) for column in range(row)]
    common = sorted(pairs, key=lambda pair: -found.together[pair[0]][pair[1]])[:PAIRS]
    return [
        f"{found.classes[column]} and {found.classes[row]} ({found.together[row][column]})"
        for row, column in common
        if found.together[row][column]
    ]


def _levels(levels: Sequence[float] | None) -> str:
    return "-" if levels is None else " ".join(f"{level:.1f}" for level in levels)


def counted(counts: Counts) -> str:
    """How many trials are in which state, in one line."""
    parts = (("complete", counts.complete), ("pruned", counts.pruned), ("running", counts.running))
    rest = (("paused", counts.paused), ("waiting", counts.waiting), ("failed", counts.failed))
    return ", ".join(f"{figure} {name}" for name, figure in parts + tuple(pair for pair in rest if pair[1]))


def finished_line(row: TrialRow) -> str:
    """One line about a trial that has ended."""
    note = f" ({row.note})" if row.note else ""
    head = f"trial {row.number} {kind(row)} {row.state} {number(row.latest)} after {row.epoch}/{row.epochs} epochs"
    return f"{head}: {settings(row.params)}{note}"


def _cell(row: TrialRow, key: str) -> str:
    own = {name: value for name, value in row.params.items() if key == "scheduler" and name in SCHEDULER_KEYS}
    return f"{_short(row.params[key])} {settings(own)}".rstrip() if key in row.params else ""


def findings_table(findings: Sequence[Finding]) -> Table:
    """One line for each thing that was checked."""
    table = plain_table(None, header=False)
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    for finding in findings:
        table.add_row(Text(finding.level, style=colours[finding.level]), finding.what, Text(finding.said))
    return table


def plain_table(title: str | None, *, header: bool = True) -> Table:
    """Make a table without a frame."""
    return Table(title=title, title_justify="left", title_style="bold", show_header=header, box=None, pad_edge=False)


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
