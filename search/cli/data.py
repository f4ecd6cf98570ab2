"""``data check`` and ``data prepare``: a data set before a search sees it; and the bar while images are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.printing import error_console, show, show_json, talk

if TYPE_CHECKING:  # these cost --help a second
    from mlc_core import Dataset, Loaded, OnProgress, Problem
    from search.data import Source
    from search.signals import Stop
    from search.study import Study

Place = Annotated[Path, typer.Argument(metavar="PATH", help="A manifest, an annotation file or a folder.")]
ImageSize = Annotated[
    int, typer.Option("--image-size", min=8, max=2048, help="Pixels, both sides, at which the images are kept.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Check a data set, or decode it ahead of a search. Formats: csv, tsv, jsonl, parquet, coco, voc, "
        "openimages, yolo, label-folders, class-folders.",
        no_args_is_help=True,
    )
    group.command("check")(check)
    group.command("prepare")(prepare)
    app.add_typer(group, name="data")


def check(
    path: Place,
    *,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    image_size: ImageSize = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the splits, where the data do not say them.")] = 0,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with pictures and figures.", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Look for what would harm training; exit code 1 if something does.

    Example: mlc-search data check photos/labels.csv --html check.html
    """
    from mlc_core import check as checked
    from mlc_core import read_data

    if html is not None and not html.absolute().parent.is_dir():
        raise typer.BadParameter(f"--html {html}: there is no folder {html.absolute().parent}.")
    with decoding() as on_progress:
        loaded = read_data(
            path, format=format, image_size=image_size, seed=seed, skip_bad=True, on_progress=on_progress
        )
    found = checked(loaded)
    if html is not None:
        from search.data_page import write_page

        try:
            write_page(html, found, loaded)
        except OSError as error:
            raise typer.BadParameter(f"--html {html} cannot be written: {error.strerror}.") from None
        talk(f"The page is {html}.")
    if as_json:
        show_json(found.to_table())
    else:
        from search.drawing import check_tables

        show(*check_tables(found))
    if found.harms:
        raise typer.Exit(1)


def prepare(
    path: Place,
    *,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    study: options.Study = "default",
    storage: options.Storage = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=8, max=2048, help="By default what the study needs.", show_default=False),
    ] = None,
) -> None:
    """Decode and resize the images once, as a run does by itself; what was interrupted goes on.

    Example: mlc-search data prepare photos/labels.csv
    """
    from mlc_core import first_of, read_data
    from search.data import largest_image
    from search.study import declared

    size = image_size or largest_image(declared(study, storage))
    with decoding() as on_progress:
        loaded = read_data(path, format=format, image_size=size, skip_bad=True, on_progress=on_progress)
    talk(f"{int((loaded.splits >= 0).sum())} images of {size} x {size} pixels are ready.")
    if loaded.problems:
        talk(f"A run refuses these data without --skip-bad: {first_of(loaded.problems)}")


def data_of(study: Study, source: Source | None, root: Path, stop: Stop) -> Dataset:
    """Get a study's data ready, so that its workers find them; write down what was skipped.

    Raises
    ------
    Interrupted
        The stop was asked.
    """
    from search.data import check_starts, open_data

    check_starts(study.declaration)
    with decoding(stop) as on_progress:
        dataset, problems = open_data(study, source, on_progress=on_progress)
    if problems:
        file = root / f"skipped-{study.identity}.csv"
        _write_skipped(file, problems)
        talk(f"Skipped, and listed in {file}: {problems[0]}")
        if len(problems) > 1:
            talk(f"Skipped besides: {len(problems) - 1} more.")
    return dataset


def read(source: Source, image_size: int) -> Loaded:
    """Read data that no study knows, under a bar; what is skipped is said."""
    from mlc_core import read_data

    with decoding() as on_progress:
        loaded = read_data(
            source.path,
            format=source.format,
            image_size=image_size,
            skip_bad=source.skip_bad,
            corrections=source.corrections,
            on_progress=on_progress,
        )
    for problem in loaded.problems:
        talk(f"skipped: {problem}")
    return loaded


@contextmanager
def decoding(stop: Stop | None = None) -> Iterator[OnProgress]:
    """Draw a bar on a terminal while images are decoded; elsewhere nothing moves. A stop ends it after a chunk."""

    def check() -> None:
        if stop is not None:
            stop.check()

    console = error_console()
    if not console.is_terminal:
        yield lambda _done, _total: check()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)  # nothing is drawn where all is decoded already

        def draw(done: int, total: int) -> None:
            check()
            bar.update(task, completed=done, total=total, visible=done < total)

        yield draw


def _write_skipped(file: Path, problems: tuple[Problem, ...]) -> None:
    import csv
    import io

    from mlc_core import write_atomically

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["where", "reason"])
    writer.writerows((problem.where, problem.reason) for problem in problems)
    write_atomically(file, text.getvalue().encode())
