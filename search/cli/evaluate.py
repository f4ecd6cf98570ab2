"""``evaluate``: a model of the study on the untouched test split; and what other commands need to choose one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from search.cli import options
from search.cli.data import decoding
from search.cli.printing import show, show_json, talk

if TYPE_CHECKING:  # these import torch
    from mlc_core import Dataset, Goal
    from search.chosen import Chosen, Which
    from search.figure_files import Format
    from search.study import Study

Trial = Annotated[int | None, typer.Option("--trial", min=0, metavar="NUMBER", help="This trial.", show_default=False)]
Best = Annotated[
    bool,
    typer.Option("--best", help="The best trial: the first of a confirmation, else of the search. The default."),
]
Ensemble = Annotated[
    bool, typer.Option("--ensemble", help="An ensemble, selected from all kept weights on the validation split.")
]
GoalOption = Annotated[
    str,
    typer.Option(
        "--goal",
        help="What the class-wise thresholds are tuned for, on the validation split: f1, fbeta:2, precision:0.9 (a "
        "floor), recall:0.9 (a floor), cost:1,5 (of a false positive, of a false negative).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    *,
    trial: Trial = None,
    best: Best = False,
    ensemble: Ensemble = False,
    goal: GoalOption = "f1",
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="Write the figures into this folder.", show_default=False),
    ] = None,
    formats: Annotated[
        str, typer.Option("--as", metavar="FORMATS", help="Of the figures: html, png, svg, pdf; several as html,png.")
    ] = "html",
    study: options.Study = "default",
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
) -> None:
    """Score a model of the study on its test split, which nothing was chosen by.

    Calibration and class-wise thresholds are fitted on the validation split.

    Example: mlc-search evaluate --ensemble --figures figures --as html,png
    """
    which = asked(trial, best=best, ensemble=ensemble)
    wanted = _formats(formats) if figures is not None else []
    with opened(study, storage, artifacts, data, format, skip_bad=skip_bad) as (own, repeated, root, dataset):
        from search.chosen import choose

        chosen = choose(own, repeated, root, dataset, which=which, goal=parsed(goal))
        if figures is not None:
            _draw(chosen, dataset, figures, wanted)
        _print(chosen, dataset, as_json=as_json)


def _draw(chosen: Chosen, dataset: Dataset, folder: Path, formats: list[Format]) -> None:
    from search.figure_files import save_figures
    from search.model_figures import model_figures, write_worst

    try:
        save_figures(model_figures(chosen), folder, formats)
        write_worst(folder / "worst-images.html", chosen, dataset)
    except OSError as error:
        raise typer.BadParameter(f"--figures {folder} cannot be written: {error.strerror}.") from None
    talk(f"The figures are in {folder}.")


def asked(trial: int | None, *, best: bool, ensemble: bool) -> Which:
    """Read which model is meant; the best one unless said otherwise."""
    if sum((trial is not None, best, ensemble)) > 1:
        raise typer.BadParameter("--trial, --best and --ensemble: choose one.")
    if ensemble:
        return "ensemble"
    return "best" if trial is None else trial


def parsed(goal: str) -> Goal:
    """Read what thresholds are tuned for."""
    from mlc_core import Goal

    return Goal.parse(goal)


@contextmanager
def opened(
    study: str,
    storage: str | None,
    artifacts: str | None,
    data: Path | None,
    format: str,  # noqa: A002 - the option's name
    *,
    skip_bad: bool,
) -> Iterator[tuple[Study, Study | None, Path, Dataset]]:
    """Open a study, its confirmation if there is one, its artifact folder and its data."""
    from search.artifacts import artifacts_folder
    from search.confirm import open_confirmation
    from search.data import open_data
    from search.storage import resolve_url
    from search.study import open_study

    url = resolve_url(storage)
    source = options.source(data, format, skip_bad=skip_bad)
    with open_study(study, url) as own, open_confirmation(own, url) as repeated:
        with decoding() as on_progress:
            dataset, _ = open_data(own, source, on_progress=on_progress)
        yield own, repeated, artifacts_folder(artifacts, url), dataset


def _print(chosen: Chosen, dataset: Dataset, *, as_json: bool) -> None:
    from search.model_tables import class_table, documented_table, score_table, summary, way_table

    ways, scores, milliseconds = chosen.by_way(), chosen.scores, chosen.latency(dataset)
    if as_json:
        show_json(
            {
                "model": chosen.name,
                "why": chosen.why,
                "members": [
                    {"study": one.study, "trial": one.row.number, "seed": one.row.seed, "share": share}
                    for one, share in zip(chosen.candidates, chosen.shares, strict=True)
                ],
                "milliseconds_per_image": milliseconds,
                "goal": str(chosen.thresholds.goal),
                "thresholds": dict(zip(chosen.test.classes, chosen.thresholds.values, strict=True)),
                "test": scores.to_table(),
                "by_thresholds": {way: one.to_table() for way, one in ways.items()},
            }
        )
        return
    show(
        summary(chosen, milliseconds),
        "",
        score_table(scores),
        "",
        class_table(scores),
        "",
        way_table(ways),
        "",
        documented_table(scores),
    )


def _formats(text: str) -> list[Format]:
    from search.figure_files import FORMATS

    wanted = [part.strip() for part in text.split(",")]
    for part in wanted:
        if part not in FORMATS:
            raise typer.BadParameter(f"--as {part}: not one of {', '.join(FORMATS)}.")
    return cast("list[Format]", wanted)
