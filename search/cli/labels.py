"""``labels check``: likely label errors, with pictures and a CSV file of corrections that the loader can apply."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.data import read
from search.cli.fit import parsed
from search.cli.printing import error_console, show, show_json, talk

if TYPE_CHECKING:  # these cost --help seconds
    from rich.console import RenderableType

    from mlc_core import EpochReport
    from mlc_core.folds import OnFold, Pool
    from mlc_core.label_errors import LabelCheck
    from search.data import Source

LISTED = 20  # of what was found, on a terminal
PICTURE = 128  # pixels, both sides, of what a page shows


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Look for labels that are likely wrong.", no_args_is_help=True)
    group.callback()(_group)
    group.command("check")(check)
    app.add_typer(group, name="labels")


def _group() -> None:
    """Keep the verb, though it is the only one."""


def check(
    params: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Parameters, as those of fit: best what a search found."),
    ] = None,
    *,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    corrections: options.Corrections = None,
    folds: Annotated[
        int, typer.Option("--folds", min=2, max=100, help="Models to train, each without one part of the images.")
    ] = 4,
    epochs: options.Epochs = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Write the corrections; take out what is right.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the pictures.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Look for labels that are likely wrong, by models that did not see them.

    Example: mlc-search labels check --data photos/labels.csv --csv fixes.csv
    """
    for option, file in (("--csv", csv), ("--html", html)):
        if file is not None and not file.absolute().parent.is_dir():
            raise typer.BadParameter(f"{option} {file}: there is no folder {file.absolute().parent}.")
    source = options.source(data, format, skip_bad=skip_bad, corrections=corrections)
    from mlc_core import EPOCHS, Params

    chosen = Params.from_flat(parsed(params or []))
    from mlc_core.folds import out_of_fold  # imports torch
    from mlc_core.label_errors import require_cleanlab, suspicious

    require_cleanlab()
    length = epochs or EPOCHS
    images = _pool(source, chosen.image_size)
    try:
        with _training(folds, length) as on_epoch:
            probabilities = out_of_fold(images, chosen, folds=folds, epochs=length, on_epoch=on_epoch)
    except KeyboardInterrupt:
        talk("Stopped. The same command goes on where it was.")
        raise typer.Exit(130) from None
    found = suspicious(images, probabilities, folds=folds)
    if csv is not None:
        _write_csv(csv, found)
    if html is not None:
        _write_html(html, found, source)
    if as_json:
        show_json(found.to_table())
    else:
        show(*_tables(found))


def _pool(source: Source | None, image_size: int) -> Pool:
    from mlc_core import digits
    from mlc_core.folds import pool

    return pool(digits() if source is None else read(source, image_size))


@contextmanager
def _training(folds: int, epochs: int) -> Iterator[OnFold]:
    """Draw a bar on a terminal while the folds are trained; elsewhere one line a fold."""
    console = error_console()
    if not console.is_terminal:

        def say(fold: int, report: EpochReport) -> None:
            if report.epoch == report.epochs:
                talk(f"fold {fold}/{folds} is trained: validation loss {report.val_loss:.4f}")

        yield say
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Training", total=folds * epochs)

        def draw(fold: int, report: EpochReport) -> None:
            told = f"Fold {fold} of {folds}, validation loss {report.val_loss:.4f}"
            bar.update(task, completed=(fold - 1) * epochs + report.epoch, description=told)

        yield draw


def _write_csv(file: Path, found: LabelCheck) -> None:
    from mlc_core import write_atomically

    try:
        write_atomically(file, found.to_csv().encode(), mode=0o644)
    except OSError as error:
        raise typer.BadParameter(f"--csv {file} cannot be written: {error.strerror}.") from None
    talk(f"The corrections are {file}. Take out the rows whose labels are right.")


def _write_html(file: Path, found: LabelCheck, source: Source | None) -> None:
    from search.label_page import write_page

    # Models may be trained on smaller images than a person can judge.
    shown = _pool(source, PICTURE)
    wanted = {each.path for each in found.found}
    pictures = {
        path: shown.images[row] for path, row in zip(shown.paths, shown.rows.tolist(), strict=True) if path in wanted
    }
    try:
        write_page(file, found, str(source.path) if source else "The embedded digit scenes", pictures)
    except OSError as error:
        raise typer.BadParameter(f"--html {file} cannot be written: {error.strerror}.") from None
    talk(f"The page is {file}.")


def _tables(found: LabelCheck) -> list[RenderableType]:
    from rich.text import Text

    from search.drawing import plain_table

    classes = plain_table("Labels that are likely wrong")
    for heading in ("class", "images", "perhaps should not carry it", "perhaps should"):
        classes.add_column(heading, justify="left" if heading == "class" else "right")
    for name, positives in zip(found.classes, found.positives, strict=True):
        extra = sum(each.given for each in found.of(name))
        counts = ("not looked at", "") if name in found.unchecked else (str(extra), str(len(found.of(name)) - extra))
        classes.add_row(Text(name), str(positives), *counts)  # class names are no markup
    surest = plain_table("The surest")
    for heading in ("image", "class", "given", "suggested", "probability"):
        surest.add_column(heading, justify="left" if heading in ("image", "class") else "right")
    for each in found.found[:LISTED]:
        told = (str(each.given), str(each.suggested), f"{each.probability:.3f}")
        surest.add_row(Text(each.path), Text(each.name), *told)
    total = f"{len(found.found)} of {found.images * len(found.classes)} labels are likely wrong."
    return [classes, *([surest] if found.found else []), Text(total)]
