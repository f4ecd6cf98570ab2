"""What a search came to, as sections of one page: data, study, documented trials, model, thresholds, ensemble.

Not here: how the page is written (report_page.py); which figures it gets (model_figures.py).
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final, assert_never

import torch
from rich.table import Table as Drawn
from rich.text import Text

from mlc_core import SPLITS, Dataset, processors
from search.advice import advise
from search.advice_tables import advice_tables, advice_words, importance_words
from search.chosen import Chosen
from search.confirm import Verdict
from search.declaration import Choice, Domain, Range
from search.drawing import (
    best_line,
    comparison_table,
    comparison_words,
    confirmation_table,
    confirmation_words,
    counted,
    front_table,
    number,
    over_lines,
    params_table,
    plain_table,
    trials_table,
)
from search.figures import worst_images
from search.footprints import UNITS
from search.importance import importances
from search.model_figures import model_figures
from search.model_tables import class_table, documented_table, gain_table, score_table, summary, way_table
from search.paper import paper_result
from search.report_page import Code, Figure, Html, Note, Part, Section, Table
from search.study import Study
from search.study_figures import importance_bars, optimization_history, pareto_front, slices, timeline
from search.views import TrialRow, compare_paper, counts, front, leaderboard, trial_rows

LEADERS: Final = 20  # rows of the leaderboard
_PACKAGES: Final = ("mlc-search", "torch", "torchvision", "optuna", "numpy", "scikit-learn")


def sections(
    study: Study, dataset: Dataset, best: Chosen, ensemble: Chosen, verdicts: Iterable[Verdict], commands: Iterable[str]
) -> list[Section]:
    """Build the report.

    Parameters
    ----------
    best, ensemble : Chosen
        From `search.chosen.choose`; the two are set side by side.
    verdicts : iterable of Verdict
        Of the confirmation, if there is one.
    commands : iterable of str
        That lead to the same again.
    """
    told, rows = list(verdicts), trial_rows(study)
    times = best.latency(dataset), ensemble.latency(dataset)
    return [
        _summary(best, ensemble),
        _data(dataset),
        _study(study, rows),
        _mattered(study, told),
        _paper(rows),
        *([_confirmation(told)] if told else []),
        _model(best, dataset, times[0]),
        _thresholds(best),
        _ensemble(best, ensemble, times),
        _again(study, rows, dataset, commands),
    ]


def _summary(best: Chosen, ensemble: Chosen) -> Section:
    paper = paper_result()
    table = plain_table("On the test split")
    for heading in ("", "best single model", "ensemble", "the document, on its own data"):
        table.add_column(heading)
    pair = best.scores, ensemble.scores
    for name, ours, documented in (
        ("accuracy, element-wise", [one.accuracy for one in pair], paper.accuracy),
        ("macro precision", [one.macro.precision for one in pair], paper.macro_precision),
        ("macro recall", [one.macro.recall for one in pair], paper.macro_recall),
        ("macro F1", [one.macro.f1 for one in pair], paper.macro_f1),
    ):
        table.add_row(name, *(f"{100 * value:.2f} %" for value in (*ours, documented)))
    said = f"The best single model is {best.name}: {best.why}. Beside it the {ensemble.name}, {ensemble.why}."
    differ = "The document's images are not available: its figures are set beside ours, not compared with them."
    return Section("What came out", "summary", [Note(said), table_of(table), Note(differ)])


def _data(dataset: Dataset) -> Section:
    splits = {name: getattr(dataset, name) for name in SPLITS}
    table = plain_table("Images that carry each class")
    for heading in ("class", *(f"{name}, of {len(split)}" for name, split in splits.items())):
        table.add_column(heading)
    for at, name in enumerate(dataset.classes):
        table.add_row(Text(name), *(f"{int(split.labels[:, at].sum()):,}" for split in splits.values()))
    shape = dataset.train.images.shape
    said = f"{dataset.name}, fingerprint {dataset.fingerprint}; kept at {shape[-1]} x {shape[-2]} pixels."
    alone = "Parameters were searched and thresholds tuned on val; no choice was made on test."
    return Section("The data", "data", [Note(said), Note(alone), table_of(table)])


def _study(study: Study, rows: list[TrialRow]) -> Section:
    leaders = leaderboard(rows)
    declaration = study.declaration.to_table()
    space = plain_table("The search space")
    space.add_column("parameter")
    space.add_column("values")
    for key, domain in study.declaration.space.items():
        space.add_row(key, Text(_spelled(domain)))
    for scheduler, branch in study.declaration.branches.items():
        for key, domain in branch.items():
            space.add_row(f"{key}, of {scheduler}", Text(_spelled(domain)))
    for key, value in study.declaration.fixed.items():
        space.add_row(key, Text(f"{value}, fixed"))
    how = (
        f"{counted(counts(rows))}. Sampler {declaration['sampler']['name']}, pruner {declaration['pruner']['name']}, "
        f"{study.declaration.epochs} epochs a trial, objective {study.declaration.objective}, seed "
        f"{study.declaration.seed}."
    )
    limits = study.declaration.limits
    if limits:
        how += f" Limits: {', '.join(f'{name} {limit:g} {UNITS[name]}' for name, limit in limits.items())}."
    figures = [pareto_front] if study.declaration.against else []
    figures += [optimization_history, slices, timeline]
    parts: list[Part] = [Note(how), *map(Note, over_lines(rows)), *(Figure(draw(rows)) for draw in figures)]
    if leading := front(rows):
        parts.append(table_of(front_table(leading, title="The front")))
    parts += [table_of(trials_table(leaders[:LEADERS], title="The best trials")), table_of(space)]
    return Section(f"The study {study.name}", "study", parts)


def _mattered(study: Study, verdicts: list[Verdict]) -> Section:
    found, advised = importances(study), advise(study, verdicts)
    parts: list[Part] = [Figure(importance_bars(found)), *map(Note, importance_words(found))]
    told = [one for one in advised.findings if one.verdict in ("change", "found")]
    parts += map(Note, advice_words(advised)) if told else ()
    parts += map(table_of, advice_tables(told))
    if advised.toml:
        parts += [Note("What of that changes the study's file:"), Code(advised.toml)]
    return Section("What mattered", "mattered", parts)


def _spelled(domain: Domain) -> str:
    match domain:
        case Choice(values=values):
            return ", ".join(map(str, values))
        case Range(low=low, high=high, log=log, step=step):
            how = " on a logarithmic scale" if log else "" if step is None else f" in steps of {step:g}"
            return f"{low:g} to {high:g}{how}"
        case other:
            assert_never(other)


def _paper(rows: list[TrialRow]) -> Section:
    comparison = compare_paper(rows)
    words = [Note(line) for line in comparison_words(comparison)]
    return Section("The documented trials, replayed", "paper", [table_of(comparison_table(comparison)), *words])


def _confirmation(verdicts: list[Verdict]) -> Section:
    words = [Note(line) for line in confirmation_words(verdicts)]
    return Section("Confirmed over fresh seeds", "confirmation", [table_of(confirmation_table(verdicts)), *words])


def _model(best: Chosen, dataset: Dataset, milliseconds: float) -> Section:
    scores = best.scores
    row = best.candidates[0].row
    tables = (
        summary(best, milliseconds),
        score_table(scores),
        class_table(scores),
        documented_table(scores),
        params_table(row, dict(row.fit.get("params", {}))),
    )
    figures = map(Figure, model_figures(best).values())
    wrong = Html(f"<h3>The images most wrongly classified</h3>{worst_images(best.test, scores, dataset.test)}")
    return Section(
        "The chosen model",
        "model",
        [Note(best_line(row)), *map(table_of, tables), *figures, wrong],
    )


def _thresholds(best: Chosen) -> Section:
    said = (
        f"Tuned on validation for {best.thresholds.goal}, after calibration; a class with few examples is held near "
        f"the one threshold for all, {number(best.thresholds.overall)}. Intervals are 95 %, by bootstrap over images."
    )
    return Section("Class-wise thresholds", "thresholds", [Note(said), table_of(way_table(best.by_way()))])


def _ensemble(best: Chosen, ensemble: Chosen, times: tuple[float, float]) -> Section:
    tables = summary(ensemble, times[1]), gain_table(best, ensemble, times), class_table(ensemble.scores)
    return Section("The ensemble", "ensemble", [*map(table_of, tables)])


def _again(study: Study, rows: list[TrialRow], dataset: Dataset, commands: Iterable[str]) -> Section:
    table = plain_table("Versions, seeds, hardware")
    table.add_column("what")
    table.add_column("here")
    for package in _PACKAGES:
        table.add_row(package, version(package))
    row = next(iter(leaderboard(rows)), None)
    for key, value in {
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processors": f"{processors()}, {torch.backends.cpu.get_cpu_capability()}",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "study's seed": study.declaration.seed,
        "best trial's seed": row.seed if row else "-",
        "precision and threads of a trial": " ".join(map(str, row.compute.values())) if row else "-",
        "data": dataset.fingerprint,
    }.items():
        table.add_row(key, Text(str(value)))
    lines = [Note("The same data, parameters, seed, threads and machine give the same bits.")]
    return Section("How to reproduce this", "again", [*lines, Code("\n".join(commands)), table_of(table)])


def commands_of(study: Study, *options: object) -> list[str]:
    """Spell the commands that lead to the same study and report again."""
    named = [] if study.name == "default" else ["--study", study.name]
    finished = counts(trial_rows(study)).finished
    words = (["enqueue-paper-trials"], ["run", "--trials", str(finished)], ["confirm"], ["report"])
    return [shlex.join(["mlc-search", *one, *named, *map(str, options)]) for one in words]


def table_of(drawn: Drawn) -> Table:
    """Take over what was made for the terminal."""
    columns = [[str(cell) for cell in column.cells] for column in drawn.columns]
    head = tuple(str(column.header) for column in drawn.columns)
    rows = tuple(zip(*columns, strict=True))
    return Table(title=str(drawn.title or ""), head=head if drawn.show_header else (), rows=rows)
