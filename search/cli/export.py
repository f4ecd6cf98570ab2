"""``export``: a model of the study as a folder to ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from search.cli import options
from search.cli.evaluate import Best, Ensemble, GoalOption, Trial, asked, opened, parsed
from search.cli.printing import show_json, talk


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Is made; a model that is there is replaced.")],
    *,
    trial: Trial = None,
    best: Best = False,
    ensemble: Ensemble = False,
    goal: GoalOption = "f1",
    onnx: Annotated[bool, typer.Option("--onnx", help="Also as ONNX, checked against the network.")] = False,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Also by torch.export, checked likewise.")
    ] = False,
    license: Annotated[  # noqa: A002 - the card's word
        str, typer.Option("--license", help="What the card says under that name, such as CC-BY-4.0.")
    ] = "",
    study: options.Study = "default",
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
) -> None:
    """Write a model of the study as a folder: weights, classes, thresholds, preprocessing, scores on the test split.

    Example: mlc-search export model --ensemble --onnx
    """
    which = asked(trial, best=best, ensemble=ensemble)
    with opened(study, storage, artifacts, data, format, skip_bad=skip_bad) as (own, repeated, root, dataset):
        from mlc_core import DataCard, Part, save_model, write_onnx, write_torch_export
        from search.chosen import choose

        chosen = choose(own, repeated, root, dataset, which=which, goal=parsed(goal))
        card = save_model(
            folder,
            [
                Part(weights=one.weights, share=share, source=f"study {one.study}, {one.name}")
                for one, share in zip(chosen.candidates, chosen.shares, strict=True)
            ],
            side=dataset.test.images.shape[-1],
            data=DataCard(name=dataset.name, fingerprint=dataset.fingerprint),
            average=chosen.average,
            scale=chosen.calibration.scale,
            shift=chosen.calibration.shift,
            thresholds=chosen.thresholds.values,
            goal=str(chosen.thresholds.goal),
            metrics=chosen.scores.to_table(),
            license=license,
        )
        if onnx:
            card = write_onnx(folder)
        if torch_export:
            card = write_torch_export(folder)
        talk(f"{chosen.name} ({chosen.why}) is in {folder}: mlc-search predict IMAGES --model {folder}")
        if as_json:
            show_json(json.loads(card.to_json()))
