"""``fit``: one configuration, no study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from search.cli import options
from search.cli.data import read
from search.cli.printing import show_json, talk

if TYPE_CHECKING:
    from mlc_core import EpochReport, Objective, Value


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit")(fit)


def fit(
    params: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Parameters, such as lr=1e-3 optimizer=adam scheduler=step."),
    ] = None,
    *,
    paper: Annotated[
        int | None,
        typer.Option(
            "--paper", help="Start from documented trial 1 to 5, as 'default' replays it.", show_default=False
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="bce|macro_f1|map",
            help="What tells the best epoch, on the validation split, as in a study's file: the lowest loss, or the "
            "highest mean over classes of F1 or of average precision.",
        ),
    ] = "bce",
    epochs: options.Epochs = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="By default 0.", show_default=False)] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, tf32, bf16 or fp16.")] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; by default all.", show_default=False)
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            "--micro-batch",
            min=2,
            help="Images passed at once; by default the batch, or less where memory runs out.",
            show_default=False,
        ),
    ] = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    corrections: options.Corrections = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="DIR", help="Keep its state here, and go on from there.", show_default=False
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Train one configuration and print its best validation loss, or what --objective names.

    Example: mlc-search fit lr=2e-3 weight_decay=1e-2 dropout=0.1 --epochs 12

    Example: mlc-search fit image_size=64 --data photos/labels.csv
    """
    given = parsed(params or [])
    spec: dict[str, Any] = {"params": given, "epochs": epochs, "seed": seed, "threads": threads}
    if paper is not None:
        spec = _like_paper(paper, spec)
    source = options.source(data, format, skip_bad=skip_bad, corrections=corrections)
    import mlc_core

    chosen = mlc_core.Params.from_flat(spec["params"])
    for sentence in mlc_core.without_effect(given, (chosen.loss,)):
        talk(f"Warning: {sentence}")
    named = cast("Objective", objective)  # fit looks at it
    reports: list[EpochReport] = []

    def tell(report: EpochReport, /) -> bool:
        losses = f"training {report.train_loss:.4f}  validation {report.val_loss:.4f}"
        if objective != "bce":
            losses += f"  {objective} {report.value(named):.4f}"
        talk(f"epoch {report.epoch:>3}/{report.epochs}  {losses}  lr {report.lr:.2e}  {report.seconds:.1f} s")
        reports[report.epoch - 1 :] = [report]
        return True

    length = {} if spec["epochs"] is None else {"epochs": spec["epochs"]}
    try:
        value = mlc_core.fit(
            chosen,
            read(source, chosen.image_size).dataset() if source else None,
            seed=spec["seed"] or 0,
            objective=named,
            device=device,
            precision=precision,
            threads=spec["threads"],
            micro_batch=micro_batch,
            on_epoch=tell,
            checkpoint=checkpoint,
            **length,
        )
    except KeyboardInterrupt:
        kept = f" Its state is in {checkpoint}; the same command goes on." if checkpoint else ""
        talk(f"Stopped.{kept}")
        raise typer.Exit(130) from None
    if as_json:
        best = mlc_core.best_epoch(reports, named)
        told = {"objective": objective, "value": value, "val_loss": best.val_loss}
        show_json({**told, "params": chosen.to_flat()})
    else:
        typer.echo(repr(value))


def parsed(words: list[str]) -> dict[str, Value]:
    """Read ``lr=1e-3`` as the kind of value that lr is."""
    from mlc_core import DEFAULTS

    flat: dict[str, Value] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise typer.BadParameter(f"{word!r} is not KEY=VALUE, such as lr=1e-3.")
        try:
            flat[key] = type(DEFAULTS.get(key, ""))(text)
        except ValueError:
            flat[key] = text  # the parameter's own check says what is allowed
    return flat


def _like_paper(number: int, spec: dict[str, Any]) -> dict[str, Any]:
    from search.declaration import built_in
    from search.paper import paper_trials
    from search.study import paper_params

    known = {trial.number: trial for trial in paper_trials()}
    if number not in known:
        raise typer.BadParameter(f"--paper {number}: the document has trials {', '.join(map(str, known))}.")
    study = built_in("default")
    ours = {"epochs": study.epochs, "seed": known[number].seed, "threads": study.threads}
    said = {key: value for key, value in spec.items() if value is not None and key != "params"}
    return {**ours, **said, "params": paper_params(study, known[number]).to_flat() | spec["params"]}
