"""``predict`` and ``explain``: a model's folder is asked about images."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.printing import error_console, talk

if TYPE_CHECKING:  # torch costs --help seconds
    from mlc_core import Prediction

    Told = tuple[Path, Prediction]
    Show = Callable[[Iterable[Told], Sequence[str]], None]


class Runtime(StrEnum):
    """What --runtime takes."""

    TORCH = "torch"
    ONNX = "onnx"


ModelFolder = Annotated[
    Path, typer.Option("--model", metavar="DIR", help="A folder that mlc-search export wrote.", show_default=False)
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("predict")(predict)
    app.command("explain")(explain)


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Files, and folders with all below them.")],
    *,
    model: ModelFolder,
    as_json: options.Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of lines.")] = False,
    runtime: Annotated[
        Runtime, typer.Option("--runtime", help="torch (from safetensors) or onnx; a model.pt2 is never read.")
    ] = Runtime.TORCH,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="Probability from which a label is given; by default the model's, a class each.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Say which labels images carry; exit code 1 if one cannot be read, 2 if there is none.

    Example: mlc-search predict photos/ --model model --csv > labels.csv
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")
    from mlc_core import BadData, Problem, find_images, load_model

    found = [find_images(path) for path in images]
    files = [file for listed, _ in found for file in listed]
    problems = [problem for _, own in found for problem in own]
    if not files and not problems:
        places = ", ".join(_printable(str(path)) for path in images)
        raise BadData(f"{places}: no image is there. Name files, or folders with images somewhere below them.")
    shipped = load_model(model, runtime=runtime.value, device=device)
    show: Show = _show_json if as_json else _show_csv if as_csv else _show_lines

    def told() -> Iterator[Told]:
        with _counting(len(files)) as step:
            for file, answer in zip(files, shipped.stream(files, thresholds=threshold), strict=True):
                if isinstance(answer, Problem):
                    problems.append(answer)
                else:
                    yield file, answer
                step()

    show(told(), shipped.classes)
    for problem in problems:
        talk(_printable(str(problem)))
    if problems:
        raise typer.Exit(1)


def explain(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="One file.")],
    *,
    model: ModelFolder,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="L", help="Several times: which; by default those given.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="A .png or .html file; by default the image's name with -explained.png, in this folder.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw where in an image the model sees its labels: a heat map (Grad-CAM) each.

    Example: mlc-search explain photos/7.jpg --model model --label cat
    """
    from mlc_core import heat_maps, load_model, write_picture

    target = out or Path(f"{image.stem}-explained.png")
    told = heat_maps(load_model(model, device=device), image, labels=label)
    write_picture(target, told, title=image.name)
    if not told.prediction.labels and not label:
        talk(f"No label reaches its threshold; the most probable one is shown, {told.heats[0].label}.")
    if told.early:
        stages = " and ".join(map(str, told.early))
        talk(f"The last stage sees an image of this size as one pixel; the heat is of stage {stages}.")
    talk(f"The picture is {target}.")
    for heat in told.heats:
        typer.echo(f"{heat.label} {heat.probability:.3f}")


def _show_lines(told: Iterable[Told], _classes: Sequence[str]) -> None:
    for file, prediction in told:
        labels = ", ".join(f"{label} {prediction.probabilities[label]:.2f}" for label in prediction.labels)
        typer.echo(f"{_printable(str(file))}: {labels or '-'}")


def _show_json(told: Iterable[Told], _classes: Sequence[str]) -> None:
    """Print an array of which no more than one image is held at a time."""
    before = "["
    for file, prediction in told:
        row = {"image": str(file), "labels": prediction.labels, "probabilities": prediction.probabilities}
        # Escaped, because a file's name may hold what is no character.
        typer.echo(f"{before}\n  {json.dumps(row, allow_nan=False)}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


def _show_csv(told: Iterable[Told], classes: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "labels", *(f"probability of {name}" for name in classes)])
    for file, prediction in told:
        probabilities = [f"{value:.6g}" for value in prediction.probabilities.values()]
        writer.writerow([_printable(str(file)), "|".join(prediction.labels), *probabilities])


def _printable(text: str) -> str:
    """Escape the bytes of a file's name that are no characters."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _counting(total: int) -> Iterator[Callable[[], None]]:
    """Count images: by a bar where results go elsewhere than the terminal that it moves on; at the end in a line."""
    console, started, done = error_console(), time.monotonic(), 0
    if console.is_terminal and not sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        bar = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        task = bar.add_task("", total=total, rate="")
    else:
        bar = None

    def rate() -> str:
        return f"{done / max(time.monotonic() - started, 1e-9):.0f} images/s"

    def step() -> None:
        nonlocal done
        done += 1
        if bar is not None:
            bar.update(task, completed=done, rate=rate())

    if bar is not None:
        bar.start()
    try:
        yield step
    finally:
        if bar is not None:
            bar.stop()
    if done:
        talk(f"{done} image{'s' * (done != 1)}, {rate()}.")
